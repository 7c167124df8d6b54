"""What a job's process tells its supervisor: JSON lines appended to the run folder's events file.

The process knows nothing behind this file; the supervisor relays each line, fenced, into SQL.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from shared.contracts.base import Contract
from shared.contracts.manifest import ArtifactMeta, CheckpointMeta
from shared.contracts.names import ArtifactType, FailureCode

Series = Literal["train", "validation"]


class PhaseLine(Contract):
    """The process has entered a phase such as `loading`, `compile`, `training`, `evaluating`."""

    type: Literal["phase"] = "phase"
    phase: str


class ProgressLine(Contract):
    """A sign of life with a position; what counts as one step is the program's own matter."""

    type: Literal["progress"] = "progress"
    step: int = Field(ge=0)
    total_steps: int = Field(ge=0)
    message: str = ""


class MetricsLine(Contract):
    """One point of a curve. Non-finite values are left out and reported by a notice."""

    type: Literal["metrics"] = "metrics"
    series: Series
    step: int = Field(ge=0)
    tokens: int = Field(ge=0)
    """Training tokens seen so far."""
    values: dict[str, float]


class SampleLine(Contract):
    """A fixed prompt completed by the model as it is now."""

    type: Literal["sample"] = "sample"
    step: int = Field(ge=0)
    prompt: str
    text: str


class NoticeLine(Contract):
    """Something a person should know; shown in the job's events."""

    type: Literal["notice"] = "notice"
    level: Literal["info", "warning", "error"] = "info"
    message: str


class CheckpointLine(Contract):
    """A checkpoint folder is complete and fsynced at `path` inside the spool."""

    type: Literal["checkpoint"] = "checkpoint"
    path: str
    best: bool = False
    """Whether its validation loss is the run's lowest so far."""
    meta: CheckpointMeta


class OutputLine(Contract):
    """An output folder is complete and fsynced at `path`."""

    type: Literal["output"] = "output"
    output: ArtifactType
    path: str
    name: str
    meta: ArtifactMeta


class FailedLine(Contract):
    """The job cannot succeed; the process exits right after with `ExitCode.BAD_INPUT`."""

    type: Literal["failed"] = "failed"
    code: FailureCode
    message: str
    hint: str | None = None


class LogLine(Contract):
    """A line of the process's output; the supervisor reads it from there, not from this file."""

    type: Literal["log"] = "log"
    line: str


ProgressMessage = Annotated[
    PhaseLine
    | ProgressLine
    | MetricsLine
    | SampleLine
    | NoticeLine
    | CheckpointLine
    | OutputLine
    | FailedLine,
    Field(discriminator="type"),
]
PROGRESS_LINE: TypeAdapter[ProgressMessage] = TypeAdapter(ProgressMessage)
