"""Rows as the API shows them. Conversions only: what to read is asked of `listings`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from shared.contracts.jobs import JobError, JobView, PipelineView, Progress
from shared.contracts.manifest import CheckpointMeta, Manifest
from shared.contracts.views import (
    ArtifactView,
    CheckpointView,
    EventType,
    EventView,
    MetricPoint,
    ModelVersionView,
    ModelView,
    UploadView,
    WorkerView,
)
from shared.db.tables import (
    ArtifactRow,
    CheckpointRow,
    EventRow,
    JobRow,
    LogRow,
    MetricRow,
    ModelRow,
    ModelVersionRow,
    PipelineRow,
    UploadRow,
    WorkerRow,
)


def job_view(row: JobRow) -> JobView:
    """A job."""
    return JobView(
        id=row.id,
        kind=row.kind,
        name=row.name,
        state=row.state,
        desired=row.desired,
        priority=row.priority,
        owner=row.owner,
        spec=row.spec,
        inputs=row.resolved_inputs,
        outputs=row.outputs,
        pipeline_id=row.pipeline_id,
        pipeline_key=row.pipeline_key,
        reused_job_id=row.reused_job_id,
        attempt=row.attempt,
        progress=Progress(
            phase=row.phase,
            step=row.step,
            total_steps=row.total_steps,
            tokens_per_second=row.tokens_per_second,
            eta_seconds=row.eta_seconds,
            measured=row.measured,
            message=row.message,
        ),
        error=_job_error(row),
        seq=row.seq,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def pipeline_view(row: PipelineRow, jobs: Sequence[JobRow]) -> PipelineView:
    """A pipeline; `jobs` as `jobs_of_pipelines` gives them, so that a retry replaces its original.

    Jobs of other pipelines are passed over.
    """
    own = {job.pipeline_key or job.id: job_view(job) for job in jobs if job.pipeline_id == row.id}
    return PipelineView(id=row.id, name=row.name, created_at=row.created_at, jobs=own)


def artifact_view(row: ArtifactRow) -> ArtifactView:
    """A dataset, tokenizer, token set or export."""
    return ArtifactView(
        id=row.id,
        type=row.type,
        name=row.name,
        job_id=row.job_id,
        bytes=row.bytes,
        created_at=row.created_at,
        manifest=Manifest.model_validate(row.manifest),
    )


def checkpoint_view(row: CheckpointRow, versions: Sequence[str]) -> CheckpointView:
    """A checkpoint, and what it is published as."""
    meta = Manifest.model_validate(row.manifest).meta
    return CheckpointView.model_validate(
        {
            "id": row.id,
            "job_id": row.job_id,
            "step": row.step,
            "stage": row.stage,
            "final": row.final,
            "metrics": row.metrics,
            "bytes": row.bytes,
            "num_parameters": meta.model.num_parameters if isinstance(meta, CheckpointMeta) else 0,
            "tokenizer_sha256": row.tokenizer_sha256,
            "versions": list(versions),
            "created_at": row.created_at,
        }
    )


def upload_view(row: UploadRow) -> UploadView:
    """An upload."""
    return UploadView.model_validate(
        {
            "id": row.id,
            "filename": row.filename,
            "state": row.state,
            "bytes": row.bytes,
            "sha256": row.sha256,
            "created_at": row.created_at,
        }
    )


def model_view(
    row: ModelRow, versions: Sequence[tuple[ModelVersionRow, CheckpointRow]]
) -> ModelView:
    """A model; `versions` newest first, those of other models are passed over."""
    return ModelView(
        name=row.name,
        served_version=row.served_version,
        pinned_version=row.pinned_version,
        versions=[
            _version_view(version, checkpoint)
            for version, checkpoint in versions
            if version.model == row.name
        ],
    )


def worker_view(row: WorkerRow, now: datetime, *, lease_seconds: float) -> WorkerView:
    """A worker; it counts as alive for one lease after its last heartbeat."""
    return WorkerView(
        id=row.id,
        queues=sorted(row.slots),
        slots=row.slots,
        running=row.running,
        heartbeat_at=row.heartbeat_at,
        alive=now - row.heartbeat_at < timedelta(seconds=lease_seconds),
    )


def event_view(row: EventRow | MetricRow | LogRow) -> EventView:
    """An entry of a job's stream, from whichever table it is in."""
    if isinstance(row, MetricRow):
        data = {
            "series": row.series,
            "step": row.step,
            "tokens": row.tokens,
            "values": row.values,
        }
        return EventView(
            seq=row.seq, type=EventType.METRICS, attempt=row.attempt, at=row.at, data=data
        )
    if isinstance(row, LogRow):
        data = {"line": row.line}
        return EventView(seq=row.seq, type=EventType.LOG, attempt=row.attempt, at=row.at, data=data)
    return EventView(seq=row.seq, type=row.type, attempt=row.attempt, at=row.at, data=row.data)


def metric_point(row: MetricRow) -> MetricPoint:
    """One point of a curve."""
    return MetricPoint(
        step=row.step, attempt=row.attempt, tokens=row.tokens, at=row.at, values=row.values
    )


def _version_view(version: ModelVersionRow, checkpoint: CheckpointRow) -> ModelVersionView:
    return ModelVersionView.model_validate(
        {
            "version": version.version,
            "checkpoint_id": checkpoint.id,
            "job_id": checkpoint.job_id,
            "step": checkpoint.step,
            "stage": checkpoint.stage,
            "metrics": checkpoint.metrics,
            "created_at": version.created_at,
        }
    )


def _job_error(row: JobRow) -> JobError | None:
    if row.error_code is None:
        return None
    return JobError(code=row.error_code, message=row.error_message or "", hint=row.error_hint)
