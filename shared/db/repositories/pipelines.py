"""Rows of pipelines."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.base.errors import NotFoundError
from shared.db.tables import JobRow, PipelineRow


def add_pipeline(session: Session, row: PipelineRow) -> None:
    """Insert a pipeline; its jobs follow."""
    session.add(row)
    session.flush()


def get_pipeline(session: Session, pipeline_id: str) -> PipelineRow:
    """The pipeline; raises NotFoundError."""
    row = session.get(PipelineRow, pipeline_id)
    if row is None:
        raise NotFoundError(f"There is no pipeline {pipeline_id}.")
    return row


def list_pipelines(
    session: Session, *, after: str | None = None, limit: int
) -> Sequence[PipelineRow]:
    """Up to `limit` pipelines, newest first, older than the pipeline `after`."""
    query = select(PipelineRow).order_by(PipelineRow.id.desc()).limit(limit)
    if after is not None:
        query = query.where(PipelineRow.id < after)
    return session.scalars(query).all()


def jobs_of_pipelines(session: Session, pipeline_ids: Collection[str]) -> Sequence[JobRow]:
    """All jobs of these pipelines in the order given, a retry right after what it tries again."""
    query = (
        select(JobRow)
        .where(JobRow.pipeline_id.in_(pipeline_ids))
        .order_by(JobRow.pipeline_id, JobRow.pipeline_position, JobRow.id)
    )
    return session.scalars(query).all()
