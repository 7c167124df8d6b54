"""All tables. Rows hold facts; what may happen to them is the business of `shared.jobs`."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    Enum,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.contracts.names import ArtifactType, Desired, JobKind, JobState, Queue
from shared.contracts.views import EventType

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """Aware in, aware out, UTC; SQLite keeps it naive and sorts it right."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime must not reach the database")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _text_enum(names: type[StrEnum], length: int) -> Enum:
    """A text column that yields members; unknown to the schema, so that a name can be added."""
    return Enum(
        names,
        native_enum=False,
        create_constraint=False,
        length=length,
        values_callable=lambda members: [member.value for member in members],
    )


class Base(DeclarativeBase):
    """Declarative base: named constraints, JSON for dictionaries, aware times."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads this attribute as it is
        dict[str, Any]: JSON,
        dict[str, str]: JSON,
        dict[str, float]: JSON,
        dict[str, int]: JSON,
        list[str]: JSON,
        datetime: UtcDateTime,
        str: String(255),
    }


class PipelineRow(Base):
    """Several jobs submitted as one."""

    __tablename__ = "pipelines"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    created_at: Mapped[datetime]


class JobRow(Base):
    """A job: the truth about it, and its own outbox."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[JobKind] = mapped_column(_text_enum(JobKind, 20))
    name: Mapped[str]
    queue: Mapped[Queue] = mapped_column(_text_enum(Queue, 30))
    priority: Mapped[int] = mapped_column(default=0)
    owner: Mapped[str] = mapped_column(default="", server_default="")
    """On whose behalf it runs; limits count by it."""
    state: Mapped[JobState] = mapped_column(_text_enum(JobState, 20))
    desired: Mapped[Desired] = mapped_column(_text_enum(Desired, 10), default=Desired.RUN)

    spec: Mapped[dict[str, Any]]
    resolved_inputs: Mapped[dict[str, str]]
    """Artifact ids bound so far, by spec field."""
    outputs: Mapped[dict[str, str]]
    """Artifact ids by output type."""
    num_slots: Mapped[int] = mapped_column(Integer, default=1, server_default="1")
    """Slots of one worker that it occupies: the GPUs it trains on."""
    reuse_key: Mapped[str | None] = mapped_column(String(64), index=True)
    """Digest of kind, spec, inputs and code version of a data job once its inputs are bound."""
    fresh: Mapped[bool] = mapped_column(Boolean, default=False)
    reused_job_id: Mapped[str | None]
    """The earlier equal job whose outputs this one took over."""
    retry_of: Mapped[str | None] = mapped_column(index=True)
    """The failed or cancelled job that this one tries again."""
    code_version: Mapped[str] = mapped_column(default="")
    """Of the process that accepted the job: a part of `reuse_key`."""
    pipeline_id: Mapped[str | None] = mapped_column(ForeignKey("pipelines.id"), index=True)
    pipeline_key: Mapped[str | None]
    pipeline_position: Mapped[int | None]

    token: Mapped[int] = mapped_column(default=0)
    """The fence: claim and reap raise it, every write of a worker must carry it."""
    attempt: Mapped[int] = mapped_column(default=0)
    stalls: Mapped[int] = mapped_column(default=0)
    """Attempts that ended without a new checkpoint; reset by each checkpoint."""
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    dispatched_at: Mapped[datetime | None]

    phase: Mapped[str] = mapped_column(default="")
    step: Mapped[int] = mapped_column(default=0)
    total_steps: Mapped[int] = mapped_column(default=0)
    tokens_per_second: Mapped[float | None] = mapped_column(Float)
    eta_seconds: Mapped[float | None] = mapped_column(Float)
    message: Mapped[str] = mapped_column(Text, default="")
    measured: Mapped[dict[str, float]] = mapped_column(default=dict, server_default="{}")
    """The newest training metrics by name."""
    seq: Mapped[int] = mapped_column(BigInteger, default=0)
    """Number of the newest event, log line or metric of this job."""
    last_checkpoint_id: Mapped[str | None]

    error_code: Mapped[str | None]
    error_message: Mapped[str | None] = mapped_column(Text)
    error_hint: Mapped[str | None] = mapped_column(Text)

    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


Index(  # in the order in which jobs are claimed
    "ix_jobs_claimable",
    JobRow.state,
    JobRow.queue,
    JobRow.priority.desc(),
    JobRow.created_at,
    JobRow.id,
)


Index("ix_jobs_listing", JobRow.state, JobRow.id)


class JobParentRow(Base):
    """An input that another job will put out."""

    __tablename__ = "job_parents"
    __table_args__ = (Index("ix_job_parents_parent", "parent_id"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    field: Mapped[str] = mapped_column(primary_key=True)
    parent_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    output: Mapped[ArtifactType] = mapped_column(_text_enum(ArtifactType, 20))


class EventRow(Base):
    """An entry of a job's stream that is neither a metric nor a log line."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    type: Mapped[EventType] = mapped_column(_text_enum(EventType, 20))
    attempt: Mapped[int]
    token: Mapped[int]
    at: Mapped[datetime]
    data: Mapped[dict[str, Any]]


class MetricRow(Base):
    """One point of a job's curves."""

    __tablename__ = "metrics"
    __table_args__ = (
        UniqueConstraint("job_id", "series", "attempt", "step"),
        Index("ix_metrics_curve", "job_id", "series", "step"),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    series: Mapped[str] = mapped_column(String(20))
    attempt: Mapped[int]
    step: Mapped[int]
    tokens: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime]
    values: Mapped[dict[str, float]]
    loss: Mapped[float | None] = mapped_column(Float)
    """`values["loss"]` once more: thinning a long curve must not parse 100,000 documents."""


class MetricBlockRow(Base):
    """The lowest and the highest loss among the points of one stretch of a job's stream.

    A long curve is thinned from these, not from its points.
    """

    __tablename__ = "metric_blocks"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    series: Mapped[str] = mapped_column(String(20), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    block: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """Number of the point in the stream, divided by the length of a block."""
    points: Mapped[int]
    last: Mapped[float] = mapped_column(Float)
    last_step: Mapped[int]
    last_seq: Mapped[int] = mapped_column(BigInteger)
    low: Mapped[float] = mapped_column(Float)
    low_step: Mapped[int]
    low_seq: Mapped[int] = mapped_column(BigInteger)
    high: Mapped[float] = mapped_column(Float)
    high_step: Mapped[int]
    high_seq: Mapped[int] = mapped_column(BigInteger)


class LogRow(Base):
    """One line that a job's process wrote to its output."""

    __tablename__ = "logs"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    attempt: Mapped[int]
    at: Mapped[datetime]
    line: Mapped[str] = mapped_column(Text)


class ArtifactRow(Base):
    """A dataset, tokenizer, token set or export whose manifest is in the store."""

    __tablename__ = "artifacts"
    __table_args__ = (Index("ix_artifacts_listing", "type", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    type: Mapped[ArtifactType] = mapped_column(_text_enum(ArtifactType, 20))
    name: Mapped[str]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    token: Mapped[int]
    prefix: Mapped[str]
    manifest: Mapped[dict[str, Any]]
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


class CheckpointRow(Base):
    """A committed checkpoint. It exists because this row does."""

    __tablename__ = "checkpoints"
    __table_args__ = (Index("ix_checkpoints_of_job", "job_id", "step"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    token: Mapped[int]
    attempt: Mapped[int]
    step: Mapped[int]
    prefix: Mapped[str]
    manifest: Mapped[dict[str, Any]]
    manifest_sha256: Mapped[str] = mapped_column(String(64))
    tokenizer_sha256: Mapped[str] = mapped_column(String(64))
    stage: Mapped[str] = mapped_column(String(20))
    best: Mapped[bool]
    """Whether its validation loss was the run's lowest when it was committed."""
    final: Mapped[bool]
    metrics: Mapped[dict[str, float]]
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]
    """Set when retention has given it up; its objects go right after."""
    damaged_at: Mapped[datetime | None]
    """Set when its bytes in the store were not what its manifest says: nothing resumes from it."""


class ModelRow(Base):
    """A model by its user's name."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    first_job_id: Mapped[str]
    """The first run that published under this name."""
    served_version: Mapped[int | None]
    pinned_version: Mapped[int | None]
    pointer_seq: Mapped[int] = mapped_column(Integer, default=0)
    pointer_dirty: Mapped[bool] = mapped_column(Boolean, default=True)
    """Whether the pointer object is yet to be written by the leader."""
    published_at: Mapped[datetime]


class ModelVersionRow(Base):
    """A checkpoint published under a model's name; versions count up."""

    __tablename__ = "model_versions"

    model: Mapped[str] = mapped_column(ForeignKey("models.name"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    checkpoint_id: Mapped[str] = mapped_column(ForeignKey("checkpoints.id"), index=True)
    created_at: Mapped[datetime]


class UploadRow(Base):
    """A file a user sent."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(primary_key=True)
    filename: Mapped[str]
    state: Mapped[str] = mapped_column(String(10))
    declared_bytes: Mapped[int | None] = mapped_column(BigInteger)
    declared_sha256: Mapped[str | None] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    sha256: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime]


class WorkerRow(Base):
    """A worker process and its last sign of life."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    slots: Mapped[dict[str, int]]
    """Slots by queue."""
    running: Mapped[list[str]]
    """Job ids."""
    heartbeat_at: Mapped[datetime]


class LeaderRow(Base):
    """Who runs the sweeps: one row, one lease."""

    __tablename__ = "leaders"

    name: Mapped[str] = mapped_column(String(30), primary_key=True)
    owner: Mapped[str]
    token: Mapped[int]
    expires_at: Mapped[datetime]


class IdempotencyRow(Base):
    """The answer once given to an Idempotency-Key."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[int]
    location: Mapped[str]
    response: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
