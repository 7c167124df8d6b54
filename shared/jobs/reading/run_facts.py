"""Everything the database knows about one training run and where its inputs came from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from statistics import median

from sqlalchemy.orm import Session

from shared.base.errors import ConflictError
from shared.contracts.jobs import SPEC_OF_KIND
from shared.contracts.manifest import (
    CheckpointMeta,
    DatasetMeta,
    Manifest,
    TokenizerMeta,
    TokensMeta,
)
from shared.contracts.model_config import ModelConfig
from shared.contracts.training_specs import TrainingOptions, TrainSpec
from shared.contracts.views import CheckpointView, EventType, MetricsView
from shared.db.repositories import artifacts, checkpoints, jobs, stream
from shared.db.tables import ArtifactRow, CheckpointRow, EventRow, JobRow
from shared.jobs.reading import listings

FIRST_LOG_LINES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """From the raw material to the run; None where a run did not use it."""

    tokens: ArtifactRow | None = None
    tokenizer: ArtifactRow | None = None
    dataset: ArtifactRow | None = None
    base: CheckpointRow | None = None
    """What a finetuned run started from."""
    base_job: JobRow | None = None

    @property
    def tokens_meta(self) -> TokensMeta | None:
        """What is known of the token set."""
        meta = _meta(self.tokens)
        return meta if isinstance(meta, TokensMeta) else None

    @property
    def tokenizer_meta(self) -> TokenizerMeta | None:
        """What is known of the tokenizer."""
        meta = _meta(self.tokenizer)
        return meta if isinstance(meta, TokenizerMeta) else None

    @property
    def dataset_meta(self) -> DatasetMeta | None:
        """What is known of the dataset that was encoded."""
        meta = _meta(self.dataset)
        return meta if isinstance(meta, DatasetMeta) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One train or finetune job."""

    job: JobRow
    spec: TrainingOptions
    lineage: Lineage
    model: ModelConfig | None
    """Shape of the weights, once it is certain."""
    curves: MetricsView
    checkpoints: tuple[CheckpointView, ...]
    events: tuple[EventRow, ...]
    """Samples, notices and changes of state, in order."""
    first_log_lines: tuple[str, ...]
    """What the first attempt's process wrote at its start: device, number format, plan."""

    def newest(self, series: str, value: str) -> float | None:
        """The last value of a curve."""
        return next(reversed(self._values(series, value)), None)

    def lowest(self, series: str, value: str) -> float | None:
        """The lowest value of a curve."""
        return min(self._values(series, value), default=None)

    def highest(self, series: str, value: str) -> float | None:
        """The highest value of a curve."""
        return max(self._values(series, value), default=None)

    def typical(self, series: str, value: str) -> float | None:
        """The median of a curve."""
        values = self._values(series, value)
        return median(values) if values else None

    def _values(self, series: str, value: str) -> list[float]:
        points = self.curves.series.get(series, [])
        return [point.values[value] for point in points if value in point.values]

    @property
    def tokens_seen(self) -> int:
        """Training tokens so far."""
        points = [point for series in self.curves.series.values() for point in series]
        return max((point.tokens for point in points), default=0)

    @property
    def last_moment(self) -> datetime | None:
        """When the run ended; while it runs, when it last measured something."""
        moments = [point.at for series in self.curves.series.values() for point in series]
        return self.job.finished_at or max(moments, default=None)


def gather_run_facts(session: Session, job_id: str) -> RunFacts:
    """Read everything; raises NotFoundError, or ConflictError for a job that does not train."""
    job = jobs.get_job(session, job_id)
    spec = SPEC_OF_KIND[job.kind].model_validate(job.spec)
    if not isinstance(spec, TrainingOptions):
        raise ConflictError(
            f"Job {job_id} is of kind {job.kind}: only training runs have a report.",
            hint="Its outputs and events say what it did.",
        )
    lineage = _lineage(session, job)
    rows = checkpoints.list_checkpoints(session, job_id)
    events = [
        event
        for event_type in (EventType.SAMPLE, EventType.NOTICE, EventType.STATE)
        for event in stream.events_of_type(session, job_id, event_type)
    ]
    return RunFacts(
        job=job,
        spec=spec,
        lineage=lineage,
        model=_model(rows[-1] if rows else lineage.base, spec, lineage),
        curves=listings.read_curves(session, job_id),
        checkpoints=tuple(listings.job_checkpoints(session, job_id)),
        events=tuple(sorted(events, key=lambda event: event.seq)),
        first_log_lines=tuple(
            row.line for row in stream.read_logs(session, job_id, after=0, limit=FIRST_LOG_LINES)
        ),
    )


def _lineage(session: Session, job: JobRow) -> Lineage:
    tokens = _artifact(session, job.resolved_inputs.get("tokens"))
    tokenizer = dataset = None
    if tokens is not None:
        maker = jobs.get_job(session, tokens.job_id)
        inputs, outputs = maker.resolved_inputs, maker.outputs
        tokenizer = _artifact(session, inputs.get("tokenizer") or outputs.get("tokenizer"))
        dataset = _artifact(session, inputs.get("dataset"))
    base = base_job = None
    base_id = job.resolved_inputs.get("checkpoint")
    if base_id is not None:
        base = checkpoints.find_checkpoint(session, base_id)
    if base is not None:
        base_job = jobs.get_job(session, base.job_id)
    return Lineage(
        tokens=tokens, tokenizer=tokenizer, dataset=dataset, base=base, base_job=base_job
    )


def _model(
    newest: CheckpointRow | None, spec: TrainingOptions, lineage: Lineage
) -> ModelConfig | None:
    """A checkpoint knows the shape; before the first one, spec and tokens tell."""
    if newest is not None:
        meta = Manifest.model_validate(newest.manifest).meta
        return meta.model if isinstance(meta, CheckpointMeta) else None
    tokens = lineage.tokens_meta
    if isinstance(spec, TrainSpec) and tokens is not None:
        return spec.model_config_for(tokens.vocab_size)
    return None


def _artifact(session: Session, artifact_id: str | None) -> ArtifactRow | None:
    return artifacts.find_artifact(session, artifact_id) if artifact_id else None


def _meta(row: ArtifactRow | None) -> object:
    return None if row is None else Manifest.model_validate(row.manifest).meta
