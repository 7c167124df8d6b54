"""What the API shows besides jobs: events, metrics, logs, artifacts, models, errors, pages."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from shared.contracts.base import Contract
from shared.contracts.manifest import Manifest, Sha256
from shared.contracts.specs import PRINTABLE_PATTERN, Id, ModelName

Item = TypeVar("Item")


class Page(Contract, Generic[Item]):
    """One page of a list, newest first. Pass `next_after` as `after` for the next one."""

    data: list[Item]
    has_more: bool
    next_after: str | None = None


class EventType(StrEnum):
    """What an entry of a job's stream tells."""

    STATE = "state"
    PHASE = "phase"
    PROGRESS = "progress"
    METRICS = "metrics"
    SAMPLE = "sample"
    NOTICE = "notice"
    CHECKPOINT = "checkpoint"
    OUTPUT = "output"
    LOG = "log"


class EventView(Contract):
    """One entry of a job's stream; `seq` rises by one for each and is the SSE id."""

    seq: int
    type: EventType
    attempt: int
    at: datetime
    data: dict[str, Any]


class MetricPoint(Contract):
    """Values at one step."""

    step: int
    attempt: int
    tokens: int
    at: datetime
    values: dict[str, float]


class MetricsView(Contract):
    """The curves of a job; points that a resumed attempt wrote again are left out by default."""

    job_id: str
    series: dict[str, list[MetricPoint]]
    """`train` and `validation`, by rising step."""


class CheckpointView(Contract):
    """A committed checkpoint."""

    id: str
    job_id: str
    step: int
    stage: Literal["pretrain", "finetune"]
    final: bool
    metrics: dict[str, float]
    bytes: int
    num_parameters: int
    tokenizer_sha256: str
    versions: list[str]
    """Published as, such as `demo:3`."""
    created_at: datetime


class ArtifactView(Contract):
    """A dataset, tokenizer, token set or export."""

    id: str
    type: str
    name: str
    job_id: str
    bytes: int
    created_at: datetime
    manifest: Manifest


class UploadCreate(Contract):
    """Announces an upload."""

    filename: str = Field(min_length=1, max_length=255, pattern=PRINTABLE_PATTERN)
    """A label; never used as a path."""
    bytes: int | None = Field(None, ge=0)
    """Size, if known: the content must match."""
    sha256: Sha256 | None = None
    """Digest, if known: the content must match."""


class UploadView(Contract):
    """An upload; usable once `ready`."""

    id: str
    filename: str
    state: Literal["writing", "ready"]
    bytes: int
    sha256: str | None
    created_at: datetime


class PreviewView(Contract):
    """The first rows of a dataset."""

    format: Literal["documents", "dialogues"]
    rows: list[dict[str, Any]]


class ModelVersionView(Contract):
    """One published checkpoint of a model."""

    version: int
    checkpoint_id: str
    job_id: str
    step: int
    stage: Literal["pretrain", "finetune"]
    metrics: dict[str, float]
    created_at: datetime


class ModelView(Contract):
    """A model by name: what is published and which version is served."""

    name: ModelName
    served_version: int | None
    pinned_version: int | None
    versions: list[ModelVersionView]
    """Newest first."""


class PublishRequest(Contract):
    """Publish a checkpoint under a model name, making it the version that is served."""

    checkpoint_id: Id


class PinRequest(Contract):
    """Serve this version whatever is published later; null lifts the pin."""

    version: int | None = Field(ge=1, lt=2**31)


class WorkerView(Contract):
    """A worker process as its last heartbeat described it."""

    id: str
    queues: list[str]
    slots: dict[str, int]
    running: list[str]
    heartbeat_at: datetime
    alive: bool


class ProblemItem(Contract):
    """One thing wrong with a document."""

    pointer: str
    """JSON pointer to it, such as `/spec/num_heads`."""
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(extra="forbid")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    hint: str | None = None
    request_id: str | None = None
    errors: list[ProblemItem] = []
