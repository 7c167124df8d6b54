"""Submitting jobs and pipelines, and what a client sees of them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from shared.contracts.base import Contract, FieldError
from shared.contracts.checkpoint_specs import EvaluateSpec, ExportSpec, ImportSpec
from shared.contracts.data_specs import IngestSpec, TokenizeSpec
from shared.contracts.names import OUTPUTS_OF_KIND, ArtifactType, Desired, JobKind, JobState
from shared.contracts.specs import JobOutput, Label, Spec
from shared.contracts.training_specs import FinetuneSpec, TrainSpec

AnySpec = (
    IngestSpec | TokenizeSpec | TrainSpec | FinetuneSpec | EvaluateSpec | ExportSpec | ImportSpec
)
Owner = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._@-]{0,63}$")]
JobKey = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]

SPEC_OF_KIND: dict[JobKind, type[Spec]] = {
    JobKind.INGEST: IngestSpec,
    JobKind.TOKENIZE: TokenizeSpec,
    JobKind.TRAIN: TrainSpec,
    JobKind.FINETUNE: FinetuneSpec,
    JobKind.EVALUATE: EvaluateSpec,
    JobKind.EXPORT: ExportSpec,
    JobKind.IMPORT: ImportSpec,
}


class JobRequest(Contract):
    """What every kind of submission carries beside its spec."""

    name: Label | None = None
    """Name shown in lists; by default the kind."""
    priority: int = Field(0, ge=-100, le=100)
    """Higher runs first."""
    owner: Owner = ""
    """On whose behalf it runs; the limits for each owner count by this name."""
    fresh: bool = False
    """Run even if an equal data job (ingest, tokenize, evaluate, export) has already succeeded."""


class IngestJob(JobRequest):
    """Make a dataset."""

    kind: Literal[JobKind.INGEST]
    spec: IngestSpec


class TokenizeJob(JobRequest):
    """Make a tokenizer and a token set."""

    kind: Literal[JobKind.TOKENIZE]
    spec: TokenizeSpec


class TrainJob(JobRequest):
    """Pretrain a model."""

    kind: Literal[JobKind.TRAIN]
    spec: TrainSpec


class FinetuneJob(JobRequest):
    """Finetune a model."""

    kind: Literal[JobKind.FINETUNE]
    spec: FinetuneSpec


class EvaluateJob(JobRequest):
    """Measure a checkpoint."""

    kind: Literal[JobKind.EVALUATE]
    spec: EvaluateSpec


class ExportJob(JobRequest):
    """Export a checkpoint."""

    kind: Literal[JobKind.EXPORT]
    spec: ExportSpec


class ImportJob(JobRequest):
    """Take in a checkpoint."""

    kind: Literal[JobKind.IMPORT]
    spec: ImportSpec


JobCreate = Annotated[
    IngestJob | TokenizeJob | TrainJob | FinetuneJob | EvaluateJob | ExportJob | ImportJob,
    Field(discriminator="kind"),
]


class PipelineCreate(Contract):
    """Several jobs written in one transaction; inputs may name each other by `key`."""

    name: Label
    """Name shown in lists."""
    jobs: dict[JobKey, JobCreate] = Field(min_length=1, max_length=64)
    """By key, parents before children."""

    @model_validator(mode="after")
    def _check_references(self) -> PipelineCreate:
        earlier: dict[str, JobKind] = {}
        for key, job in self.jobs.items():
            for field, reference in job_references(job.spec).items():
                kind = earlier.get(reference.job)
                if kind is None and not reference.job.startswith("job_"):
                    raise FieldError(
                        f"jobs.{key}.spec.{field} names job {reference.job!r}, "
                        "which does not come before it",
                        *("jobs", key, "spec", *field.split("."), "job"),
                    )
                if kind is not None and reference.output not in OUTPUTS_OF_KIND[kind]:
                    raise FieldError(
                        f"jobs.{key}.spec.{field}: a {kind} job has no output "
                        f"{reference.output.value!r}",
                        *("jobs", key, "spec", *field.split("."), "output"),
                    )
            earlier[key] = job.kind
        return self


def job_references(spec: Spec) -> dict[str, JobOutput]:
    """The inputs of `spec` that point at another job's output, by their paths."""
    found = {path: value for path, (_, value) in spec.input_references().items()}
    return {path: value for path, value in found.items() if isinstance(value, JobOutput)}


class Progress(Contract):
    """How far a job is."""

    phase: str
    step: int
    total_steps: int
    tokens_per_second: float | None = None
    """Median of recent steps; training only."""
    eta_seconds: float | None = None
    """Estimated from recent steps; unset before there are any."""
    measured: dict[str, float] = Field(default_factory=dict)
    """The newest training metrics: loss, learning_rate, grad_norm, tokens_per_second, mfu (share of
    the device's peak FLOP/s), flops (since step 0), peak_memory_bytes, data_wait_seconds (a step),
    checkpoint_stall_seconds (since the point before). One that is not known is absent."""
    message: str = ""


class JobError(Contract):
    """Why a job failed or was cancelled."""

    code: str
    message: str
    hint: str | None = None


class JobView(Contract):
    """A job as the API shows it."""

    id: str
    kind: JobKind
    name: str
    state: JobState
    desired: Desired
    priority: int
    owner: str = ""
    spec: dict[str, Any]
    """As submitted, defaults filled in."""
    inputs: dict[str, str]
    """Ids bound to the spec's input fields so far."""
    outputs: dict[str, str]
    """Ids by output type, once there."""
    pipeline_id: str | None
    pipeline_key: str | None
    reused_job_id: str | None
    """The earlier equal job whose outputs this one took over, if it did."""
    attempt: int
    progress: Progress
    error: JobError | None
    seq: int
    """Number of the newest event."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class PipelineView(Contract):
    """A pipeline and its jobs."""

    id: str
    name: str
    created_at: datetime
    jobs: dict[str, JobView]
    """By key, in the order given."""


class JobEstimate(Contract):
    """The answer to `validate_only`: nothing was written."""

    valid: Literal[True] = True
    kind: JobKind
    num_parameters: int | None = None
    """Of the model a train job would make."""
    tokens_per_step: int | None = None
    """Batch x accumulation x context, where all are given."""
    outputs: tuple[ArtifactType, ...]
    """What the job will put out."""


class PipelineEstimate(Contract):
    """The answer to `validate_only` of a pipeline: nothing was written."""

    valid: Literal[True] = True
    jobs: dict[str, JobEstimate]
    """By key, as far as each can be known before its inputs are there."""
