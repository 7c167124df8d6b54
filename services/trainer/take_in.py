"""The import job: a ready checkpoint of another program becomes one of this platform.

Knows which files belong together by their names, and where they lie on this machine; not where
they came from. Nothing is written before everything has been read and tried.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from services.trainer.repository import fetch_repository
from shared.base.download import Downloader
from shared.base.errors import InvalidInputError, JobFailedError, PlatformError
from shared.contracts.checkpoint_specs import ImportSpec
from shared.contracts.manifest import (
    MODEL_CONFIG_JSON,
    MODEL_WEIGHTS,
    TOKENIZER_JSON,
    CheckpointMeta,
    TokenizerMeta,
)
from shared.contracts.model_config import ModelConfig
from shared.contracts.names import ArtifactType
from shared.contracts.progress import (
    CheckpointLine,
    NoticeLine,
    OutputLine,
    PhaseLine,
    ProgressMessage,
)
from shared.contracts.run_file import RunFile
from shared.model.canary import canary_loss
from shared.model.foreign_weights import (
    model_config_of,
    move_vocabulary,
    read_config,
    read_weights,
)
from shared.model.reference_weights import EMBEDDING, from_reference, reference_config
from shared.model.torch_file import TorchFile
from shared.model.transformer import Transformer
from shared.model.weights import fill_model, save_weights
from shared.text.foreign_vocabulary import (
    Converted,
    read_reference_vocabulary,
    read_tokenizer_json,
)
from shared.text.tokenizer_files import write_tokenizer_files

CONFIG, VOCABULARY, MERGES = "config.json", "vocab.json", "merges.txt"
TORCH_SUFFIXES = (".pt", ".pth", ".bin")
TRIED_TOKENS = 8
WANTED = (
    "Give ckpt_final.pt with vocab.json and merges.txt, or a Hugging Face folder's config.json, "
    "*.safetensors and tokenizer.json."
)
Report = Callable[[ProgressMessage], None]
Publish = Callable[[Path, Path], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    """A model in this platform's terms."""

    model: Transformer
    vocabulary: Converted
    step: int


def take_in(
    run: RunFile,
    spec: ImportSpec,
    *,
    report: Report,
    publish: Publish,
    downloader: Downloader = Downloader(),
) -> None:
    """Convert the files of `run`, and those of its repository, and announce checkpoint and
    tokenizer.

    Raises JobFailedError, saying what is wrong and where, for files that cannot be taken in.
    """
    files = {entry.name: entry.path for entry in run.inputs.values()}
    if spec.repository is not None:
        report(PhaseLine(phase="fetching"))
        files = fetch_repository(spec.repository, files, run.outputs, report, downloader)
    report(PhaseLine(phase="reading"))
    try:
        taken = _take(files)
    except InvalidInputError as error:
        raise JobFailedError(error.message, hint=error.hint) from error
    if taken.vocabulary.left_out:
        names = ", ".join(taken.vocabulary.left_out[:10])
        report(NoticeLine(level="warning", message=f"Left out the special tokens {names}."))
    report(PhaseLine(phase="writing"))
    _write_checkpoint(run, spec, taken, report, publish)
    _write_tokenizer(run, spec, taken.vocabulary, report, publish)


def _take(files: Mapping[str, Path]) -> _Taken:
    pickled = [name for name in files if name.endswith(TORCH_SUFFIXES)]
    tensors = sorted(name for name in files if name.endswith(".safetensors"))
    if len(pickled) == 1 and not tensors:
        return _from_reference(files, pickled[0])
    if tensors and not pickled:
        return _from_huggingface(files, tensors)
    found = ", ".join(sorted(files)) or "nothing"
    raise InvalidInputError(f"These files are no checkpoint: {found}.", hint=WANTED)


def _from_reference(files: Mapping[str, Path], name: str) -> _Taken:
    missing = [wanted for wanted in (VOCABULARY, MERGES) if wanted not in files]
    if missing:
        raise _no_tokenizer(name, missing)
    vocabulary = read_reference_vocabulary(files[VOCABULARY], files[MERGES])
    archive = TorchFile(files[name], name)
    content = archive.content if isinstance(archive.content, dict) else {}
    described = content.get("model_state_dict")
    if not isinstance(described, dict):
        raise InvalidInputError(
            f"{name} holds no model_state_dict.", hint="It is no checkpoint of the reference's."
        )
    foreign = archive.tensors(described)
    entries = sum(row is not None for row in vocabulary.rows)
    if EMBEDDING in foreign and foreign[EMBEDDING].shape[0] < entries:
        raise InvalidInputError(
            f"The tokenizer does not match the weights: it has {entries} entries, the weights "
            f"have {foreign[EMBEDDING].shape[0]} rows.",
            hint="Give the vocab.json and merges.txt that the model was trained with.",
        )
    config = reference_config(foreign, vocab_size=len(vocabulary.rows))
    step = content.get("iteration")
    return _assemble(
        config, from_reference(foreign), vocabulary, step if isinstance(step, int) else 0
    )


def _from_huggingface(files: Mapping[str, Path], tensors: list[str]) -> _Taken:
    if CONFIG not in files:
        raise InvalidInputError("There is no config.json beside the weights.", hint=WANTED)
    if TOKENIZER_JSON not in files:
        raise _no_tokenizer(tensors[0], [TOKENIZER_JSON])
    config = read_config(files[CONFIG])
    end = config.get("eos_token_id")
    end_id = end[0] if isinstance(end, list) and end else end
    vocabulary = read_tokenizer_json(
        files[TOKENIZER_JSON], end_id=end_id if isinstance(end_id, int) else None
    )
    model_config = model_config_of(config, vocab_size=len(vocabulary.rows))
    state = read_weights([files[name] for name in tensors], config)
    return _assemble(model_config, state, vocabulary, 0)


def _no_tokenizer(name: str, missing: list[str]) -> InvalidInputError:
    return InvalidInputError(
        f"{name} comes without its tokenizer: {' and '.join(missing)} is missing.",
        hint="A model is useless without the very tokenizer it was trained with; "
        "add it with: ryangpt pull ... --tokenizer FOLDER",
    )


def _assemble(
    config: ModelConfig, state: dict[str, Tensor], vocabulary: Converted, step: int
) -> _Taken:
    """Build the model and try it: its logits must be numbers."""
    move_vocabulary(state, vocabulary.rows)
    model = Transformer(config)
    try:
        fill_model(model, state, source="The checkpoint")
    except PlatformError as error:
        raise InvalidInputError(error.message) from error
    model.eval()
    ids = torch.arange(min(TRIED_TOKENS, config.context_length))[None]
    with torch.no_grad():
        if not torch.isfinite(model(ids)).all():
            raise InvalidInputError("The model computes values that are not finite numbers.")
    return _Taken(model=model, vocabulary=vocabulary, step=step)


def _write_checkpoint(
    run: RunFile, spec: ImportSpec, taken: _Taken, report: Report, publish: Publish
) -> None:
    """Put weights and tokenizer into the spool: no optimizer, so training cannot resume it."""
    folder = run.spool / f"step-{taken.step}"
    temporary = _fresh(run.spool / f".{folder.name}.tmp")
    config = taken.model.config
    save_weights(taken.model, temporary / MODEL_WEIGHTS)
    (temporary / MODEL_CONFIG_JSON).write_text(config.model_dump_json(indent=2), "utf-8")
    tokenizer = taken.vocabulary.tokenizer
    write_tokenizer_files(temporary, tokenizer, context_length=config.context_length)
    publish(temporary, folder)
    meta = CheckpointMeta(
        step=taken.step,
        stage=spec.stage,
        model=config,
        tokenizer_sha256=tokenizer.sha256,
        canary_loss=canary_loss(config, taken.model.state_dict(), tokenizer),
        final=True,
    )
    report(CheckpointLine(path=str(folder), meta=meta))


def _write_tokenizer(
    run: RunFile, spec: ImportSpec, vocabulary: Converted, report: Report, publish: Publish
) -> None:
    """Put the tokenizer out beside, so that data can be encoded for finetuning."""
    final = run.outputs / ArtifactType.TOKENIZER
    temporary = _fresh(run.outputs / f".{final.name}.tmp")
    tokenizer = vocabulary.tokenizer
    write_tokenizer_files(temporary, tokenizer)
    publish(temporary, final)
    contents = tokenizer.token_bytes()
    meta = TokenizerMeta(
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=tokenizer.sha256,
        bytes_per_token=sum(contents) / len(contents),
    )
    line: dict[str, Any] = {"output": ArtifactType.TOKENIZER, "path": str(final), "meta": meta}
    report(OutputLine(**line, name=spec.model))


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
