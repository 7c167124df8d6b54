"""`ryangpt pull`: a ready checkpoint of another program, taken in and served."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ryangpt.commands.data import upload_file
from ryangpt.commands.recipes import NOT_YET_UPLOADED
from ryangpt.commands.watching import watch_jobs
from ryangpt.spec_options import build_job
from ryangpt.terminal import Session, command
from shared.base.errors import InvalidInputError
from shared.contracts.names import ArtifactType, JobKind

PANEL = "Models"
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json")
WANTED_FILES = ("*.pt", "*.safetensors", "config.json", *TOKENIZER_FILES)
NOT_IN_A_NAME = re.compile(r"[^a-z0-9._-]+")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "pull", rich_help_panel=PANEL)(pull)


def pull(
    session: Session,
    source: Annotated[
        str,
        typer.Argument(
            help="Folder or .pt file with the checkpoint (ckpt_final.pt, vocab.json and "
            "merges.txt, or a Hugging Face folder); or the name of a public Hugging Face "
            "repository: owner/name, owner/name/folder.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Name to serve it under.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer",
            exists=True,
            file_okay=False,
            help="Folder with the tokenizer's files, when they lie elsewhere.",
        ),
    ] = None,
    stage: Annotated[
        str, typer.Option("--stage", help="pretrain completes text, finetune answers.")
    ] = "pretrain",
    detach: Annotated[
        bool, typer.Option("--detach", help="Return at once instead of showing progress.")
    ] = False,
) -> None:
    """Take in a ready checkpoint and serve it: the reference's, or a Hugging Face folder.

    Nothing in the file is executed: only its tensors are read.
    """
    local = Path(source)
    values: dict[str, Any] = {"model": model or _name_of(local), "stage": stage}
    if not local.exists():
        values["repository"] = source
    files = _local_files(local, tokenizer)
    # What cannot be right is refused before anything is sent.
    build_job(JobKind.IMPORT, {**values, "files": (NOT_YET_UPLOADED,) * len(files)})
    values["files"] = tuple(upload_file(session, path).id for path in files)
    created = session.client.submit(build_job(JobKind.IMPORT, values, name=f"pull {source}"[:200]))
    if detach:
        session.show(created, f"{created.id} {created.state}")
        return
    jobs = watch_jobs(session, created.id, lambda: {created.id: session.client.job(created.id)})
    checkpoint = jobs[created.id].outputs[ArtifactType.CHECKPOINT]
    name = values["model"]
    session.notes.print(f"Model {name} is checkpoint {checkpoint}.", markup=False)
    verb = "chat" if stage == "finetune" else "complete"
    session.notes.print(f"Try it: ryangpt {verb} --model {name}", markup=False)


def _local_files(source: Path, tokenizer: Path | None) -> list[Path]:
    """The files to send; those of a tokenizer folder replace the source's own."""
    files = list(_files_of(source, WANTED_FILES)) if source.exists() else []
    if source.exists() and not files:
        raise InvalidInputError(
            f"{source} holds no checkpoint.", hint=f"Looked for {', '.join(WANTED_FILES)}."
        )
    if tokenizer is not None:
        files = [path for path in files if path.name not in TOKENIZER_FILES]
        files += _files_of(tokenizer, TOKENIZER_FILES)
    return files


def _name_of(source: Path) -> str:
    """A model name from the folder's or the file's."""
    folder = source.resolve()
    base = folder.parent.name if source.is_file() else folder.name
    return NOT_IN_A_NAME.sub("-", base.lower()).strip("-._")[:63] or "pulled"


def _files_of(source: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    """The files of a folder that a checkpoint consists of; of a single file, its neighbours that
    are a tokenizer's."""
    if source.is_file():
        yield source
        source, patterns = source.parent, TOKENIZER_FILES
    for pattern in patterns:
        yield from sorted(path for path in source.glob(pattern) if path.is_file())
