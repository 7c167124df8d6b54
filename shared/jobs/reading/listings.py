"""What the API reads: pages of lists, a job's stream, its curves. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeVar

from sqlalchemy.orm import Session

from shared.contracts.jobs import JobView, PipelineView
from shared.contracts.names import ArtifactType, JobKind, JobState
from shared.contracts.views import (
    ArtifactView,
    CheckpointView,
    EventType,
    EventView,
    MetricsView,
    ModelView,
    Page,
    UploadView,
)
from shared.db.repositories import artifacts, checkpoints, metrics, models, pipelines, stream, watch
from shared.db.repositories.jobs import get_job, list_jobs
from shared.db.repositories.metric_blocks import ALL_STEPS, Steps
from shared.db.tables import CheckpointRow
from shared.jobs.reading.views import (
    artifact_view,
    checkpoint_view,
    event_view,
    job_view,
    metric_point,
    model_view,
    pipeline_view,
    upload_view,
)


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


Row = TypeVar("Row", bound=_HasId)
View = TypeVar("View")


def jobs_page(
    session: Session,
    *,
    state: JobState | None = None,
    kind: JobKind | None = None,
    pipeline_id: str | None = None,
    after: str | None = None,
    limit: int,
) -> Page[JobView]:
    """Jobs, newest first."""
    rows = list_jobs(
        session, state=state, kind=kind, pipeline_id=pipeline_id, after=after, limit=limit + 1
    )
    return _page(rows, limit, job_view)


def pipelines_page(session: Session, *, after: str | None = None, limit: int) -> Page[PipelineView]:
    """Pipelines with their jobs, newest first."""
    rows = pipelines.list_pipelines(session, after=after, limit=limit + 1)
    jobs = pipelines.jobs_of_pipelines(session, [row.id for row in rows])
    return _page(rows, limit, lambda row: pipeline_view(row, jobs))


def read_pipeline(session: Session, pipeline_id: str) -> PipelineView:
    """One pipeline with its jobs; raises NotFoundError."""
    row = pipelines.get_pipeline(session, pipeline_id)
    return pipeline_view(row, pipelines.jobs_of_pipelines(session, [pipeline_id]))


def artifacts_page(
    session: Session, types: Collection[ArtifactType], *, after: str | None = None, limit: int
) -> Page[ArtifactView]:
    """Artifacts of these types, newest first."""
    rows = artifacts.list_artifacts(session, types, after=after, limit=limit + 1)
    return _page(rows, limit, artifact_view)


def uploads_page(session: Session, *, after: str | None = None, limit: int) -> Page[UploadView]:
    """Uploads, newest first."""
    return _page(artifacts.list_uploads(session, after=after, limit=limit + 1), limit, upload_view)


def job_checkpoints(session: Session, job_id: str) -> list[CheckpointView]:
    """The checkpoints of a job by rising step; raises NotFoundError for an unknown job."""
    get_job(session, job_id)
    return _checkpoint_views(session, checkpoints.list_checkpoints(session, job_id))


def read_checkpoint(session: Session, checkpoint_id: str) -> CheckpointView:
    """One checkpoint; raises NotFoundError when there is none (any more)."""
    return _checkpoint_views(session, [checkpoints.get_checkpoint(session, checkpoint_id)])[0]


def list_model_views(session: Session) -> list[ModelView]:
    """All models by name, with all their versions."""
    rows = models.list_models(session)
    versions = models.list_versions(session, [row.name for row in rows])
    return [model_view(row, versions) for row in rows]


def read_model(session: Session, name: str) -> ModelView:
    """One model with all its versions; raises NotFoundError."""
    return model_view(models.get_model(session, name), models.list_versions(session, [name]))


def read_stream(
    session: Session, job_id: str, *, after: int, limit: int, only: EventType | None = None
) -> list[EventView]:
    """Up to `limit` entries of a job's stream numbered above `after`: events, metrics and logs,
    or those of one type."""
    rows = watch.read_stream(session, job_id, after=after, limit=limit, only=only)
    return [event_view(row) for row in rows]


def read_curves(
    session: Session,
    job_id: str,
    *,
    max_points: int | None = None,
    superseded: bool = False,
    steps: Steps = ALL_STEPS,
) -> MetricsView:
    """The curves of a job between two `steps`, each thinned to about `max_points` points.

    Unless `superseded`, points that an attempt wrote beyond the checkpoint from which a later
    attempt went on are left out: the later one has written, or will write, that part again.
    """
    get_job(session, job_id)
    last_steps = {} if superseded else _last_steps(session, job_id)
    curves = {
        series: [
            metric_point(row)
            for row in metrics.curve(
                session, job_id, series, last_steps=last_steps, max_points=max_points, steps=steps
            )
        ]
        for series in metrics.series_of_job(session, job_id)
    }
    return MetricsView(job_id=job_id, series=curves)


def _last_steps(session: Session, job_id: str) -> dict[int, int]:
    """By attempt, the lowest step from which a later attempt went on; -1 for "from nothing"."""
    starts = {
        event.attempt: -1 if event.data["resume_step"] is None else event.data["resume_step"]
        for event in stream.events_of_type(session, job_id, EventType.STATE)
        if event.data["state"] == JobState.RUNNING and "resume_step" in event.data
    }
    return {
        attempt: min(step for later, step in starts.items() if later > attempt)
        for attempt in sorted(starts)[:-1]
    }


def _checkpoint_views(session: Session, rows: Sequence[CheckpointRow]) -> list[CheckpointView]:
    versions = models.versions_of_checkpoints(session, [row.id for row in rows])
    return [checkpoint_view(row, versions.get(row.id, [])) for row in rows]


def _page(rows: Sequence[Row], limit: int, view: Callable[[Row], View]) -> Page[View]:
    """A page from one row more than it shows: the surplus says whether there is another page."""
    shown = rows[:limit]
    has_more = len(rows) > limit
    return Page(
        data=[view(row) for row in shown],
        has_more=has_more,
        next_after=shown[-1].id if has_more else None,
    )
