"""Files in and out: uploads, datasets, downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ryangpt.client import Client
from ryangpt.terminal import Session, command
from shared.base.errors import NotFoundError
from shared.contracts.views import ArtifactView, UploadView

PANEL = "Data"


def register(app: typer.Typer) -> None:
    """Add the commands about data."""
    for name, function in (
        ("upload", upload),
        ("uploads", list_uploads),
        ("datasets", list_datasets),
        ("preview", preview),
        ("download", download),
    ):
        command(app, name, rich_help_panel=PANEL)(function)


def upload(
    session: Session,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="File to send.")],
) -> None:
    """Send a file; print the upload's id. A file that the server already has is not sent again."""
    sent = upload_file(session, file)
    session.show(sent, sent.id)


def upload_file(session: Session, file: Path) -> UploadView:
    """Send a file, showing how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=session.err, transient=True) as progress:
        task = progress.add_task(file.name, total=file.stat().st_size)
        return session.client.upload(file, on_progress=lambda sent: progress.advance(task, sent))


def list_uploads(session: Session) -> None:
    """List uploaded files, newest first."""
    session.show_table(
        session.client.uploads(),
        ("id", "file", "state", "bytes"),
        lambda upload: (upload.id, upload.filename, upload.state, f"{upload.bytes:,}"),
    )


def list_datasets(session: Session) -> None:
    """List datasets and token sets, newest first."""
    session.show_table(
        session.client.datasets(),
        ("id", "type", "name", "bytes", "made by"),
        lambda item: (item.id, item.type, item.name, f"{item.bytes:,}", item.job_id),
    )


def preview(
    session: Session,
    dataset_id: Annotated[str, typer.Argument(metavar="DATASET", help="Id of a dataset.")],
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, max=100, help="How many.")] = 5,
) -> None:
    """Show the first documents or dialogues of a dataset."""
    shown = session.client.preview(dataset_id, rows=rows)
    lines = []
    for row in shown.rows:
        if shown.format == "documents":
            lines += [row["text"], ""]
        else:
            lines += [f"{turn['role']}: {turn['content']}" for turn in row["messages"]] + [""]
    session.show(shown, *lines)


def download(
    session: Session,
    artifact_id: Annotated[
        str, typer.Argument(metavar="ID", help="Id of a dataset, token set, tokenizer or export.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")],
) -> None:
    """Save an artifact's files, each verified by its SHA-256."""
    artifact = find_artifact(session.client, artifact_id)
    paths = session.client.download(artifact, output)
    session.show([str(path) for path in paths], *map(str, paths))


RESOURCE_OF_PREFIX = {
    "ds": "datasets",
    "tok": "tokenizers",
    "eval": "evaluations",
    "job": "exports",
}


def find_artifact(client: Client, artifact_id: str) -> ArtifactView:
    """An artifact by its id, whatever its type."""
    prefix = artifact_id.partition("_")[0]
    resource = RESOURCE_OF_PREFIX.get(prefix)
    if resource is None:
        raise NotFoundError(f"{artifact_id!r} is not the id of an artifact with files to download.")
    return client.artifact(resource, artifact_id)
