"""Checkpoint folders: written whole, read strictly, and what keeps a resume from bit identity.

Safetensors and JSON only. Knows no store: a folder in the spool is all that is promised here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError

from services.trainer.loop import Position
from services.trainer.optim import restore_optimizer
from services.trainer.snapshot import Snapshot
from shared.base.errors import IntegrityError, JobFailedError
from shared.contracts.base import Contract
from shared.contracts.manifest import (
    MODEL_CONFIG_JSON,
    MODEL_WEIGHTS,
    OPTIMIZER_WEIGHTS,
    STATE_JSON,
)
from shared.contracts.model_config import ModelConfig
from shared.contracts.names import FailureCode
from shared.model.transformer import Transformer
from shared.model.weights import fill_model, load_config, load_state, write_tensors
from shared.text.tokenizer import Tokenizer
from shared.text.tokenizer_files import write_tokenizer_files

INERT_FIELDS = frozenset(
    {
        *("tokens", "checkpoint", "resume_from", "model", "publish", "keep_checkpoints", "init"),
        *("log_interval", "save_interval", "eval_interval", "eval_tokens"),
        *("sample_prompts", "sample_tokens"),
        *("early_stop_evaluations", "num_gpus"),
    }
)
"""Spec fields that change no weight: names, reports and the cadence of looking. All others decide
what a resumed run computes. (The token set is compared by its id.)"""


class Environment(Contract):
    """What the last bits of a result depend on besides the spec."""

    num_threads: int = Field(ge=1)
    torch_version: str
    cpu_capability: str
    """Instruction set of torch's CPU kernels, such as AVX2."""
    device: str
    """`cpu`, or the GPU's name."""
    dtype: str
    compiled: bool
    world_size: int = Field(1, ge=1)
    """Processes that trained together."""


class TrainerState(Contract):
    """`state.json`."""

    step: int = Field(ge=0)
    sequences: int = Field(ge=0)
    tokens: int = Field(ge=0)
    window_loss: float
    window_steps: int = Field(ge=0)
    best_validation_loss: float | None
    evaluations_since_best: int = Field(0, ge=0)
    metrics: dict[str, float]
    stage: Literal["pretrain", "finetune"]
    tokenizer_sha256: str
    tokens_id: str
    """The token set trained on."""
    spec: dict[str, Any]
    """As submitted, defaults filled in."""
    code_version: str
    environment: Environment

    def position(self) -> Position:
        """Where to continue."""
        fields = Position.__dataclass_fields__
        return Position(**{name: getattr(self, name) for name in fields})


def environment_of(
    *, device: str, dtype: torch.dtype, compiled: bool, world_size: int = 1
) -> Environment:
    """Describe this process as it computes now."""
    return Environment(
        num_threads=torch.get_num_threads(),
        torch_version=torch.__version__,
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        device=device,
        dtype=str(dtype).removeprefix("torch."),
        compiled=compiled,
        world_size=world_size,
    )


def write_checkpoint(
    folder: Path,
    *,
    config: ModelConfig,
    snapshot: Snapshot,
    state: TrainerState,
    tokenizer: Tokenizer,
    publish: Callable[[Path, Path], None],
) -> None:
    """Write everything into a hidden neighbour of `folder`, then `publish` it under its name."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    write_tensors(snapshot.weights, temporary / MODEL_WEIGHTS, metadata={"format": "pt"})
    write_tensors(snapshot.optimizer_state, temporary / OPTIMIZER_WEIGHTS)
    (temporary / MODEL_CONFIG_JSON).write_text(config.model_dump_json(indent=2), "utf-8")
    (temporary / STATE_JSON).write_text(state.model_dump_json(indent=2), "utf-8")
    write_tokenizer_files(temporary, tokenizer, context_length=config.context_length)
    publish(temporary, folder)


def read_state(folder: Path) -> TrainerState:
    """Read `state.json`. Raises IntegrityError when it is missing or malformed."""
    path = folder / STATE_JSON
    try:
        return TrainerState.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise IntegrityError(f"{path.name} is missing from {folder}") from error
    except ValidationError as error:
        raise IntegrityError(f"{path} is malformed: {error.errors()[0]['msg']}") from error


def restore(folder: Path, model: Transformer, optimizer: torch.optim.Optimizer) -> None:
    """Load weights and optimizer state into a model that is on its device already.

    Raises JobFailedError when the shapes differ, IntegrityError when tensors are missing.
    """
    if load_config(folder) != model.config:
        raise JobFailedError(
            f"The checkpoint to resume from has another shape than this job's model: {folder}",
            code=FailureCode.BAD_SPEC,
            hint="Give the shape that the checkpoint was trained with.",
        )
    fill_model(model, load_state(folder / MODEL_WEIGHTS), source=str(folder / MODEL_WEIGHTS))
    try:
        restore_optimizer(model, optimizer, load_state(folder / OPTIMIZER_WEIGHTS))
    except KeyError as error:
        raise IntegrityError(f"{folder / OPTIMIZER_WEIGHTS} lacks {error}") from error


def differences(before: TrainerState, now: TrainerState) -> list[str]:
    """Why continuing `before` as `now` is not bit-identical, in words; empty when it is."""
    found = [
        f"{name.replace('_', ' ')} was {old} and is {new}"
        for name, old in before.environment
        if old != (new := getattr(now.environment, name))
    ]
    if before.tokens_id != now.tokens_id:
        found.append(f"the token set was {before.tokens_id} and is {now.tokens_id}")
    if before.code_version != now.code_version:
        found.append(f"the code was {before.code_version} and is {now.code_version}")
    found += [
        f"{name} was {before.spec.get(name)} and is {new}"
        for name, new in now.spec.items()
        if name not in INERT_FIELDS and before.spec.get(name) != new
    ]
    return found


def make_state(
    position: Position,
    *,
    stage: Literal["pretrain", "finetune"],
    tokenizer: Tokenizer,
    tokens_id: str,
    spec: dict[str, Any],
    code_version: str,
    environment: Environment,
) -> TrainerState:
    """Describe a run at `position`."""
    return TrainerState(
        **asdict(position),
        stage=stage,
        tokenizer_sha256=tokenizer.sha256,
        tokens_id=tokens_id,
        spec=spec,
        code_version=code_version,
        environment=environment,
    )
