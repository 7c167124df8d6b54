"""Which job's output is which job's input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.db.tables import JobParentRow


def add_links(session: Session, links: Iterable[JobParentRow]) -> None:
    """Insert them; both jobs must exist."""
    session.add_all(links)
    session.flush()


def links_of_job(session: Session, job_id: str) -> Sequence[JobParentRow]:
    """The inputs of this job that other jobs put out."""
    query = select(JobParentRow).where(JobParentRow.job_id == job_id).order_by(JobParentRow.field)
    return session.scalars(query).all()


def links_to_children(session: Session, parent_id: str) -> Sequence[JobParentRow]:
    """The inputs of other jobs that this job puts out, oldest job first."""
    query = (
        select(JobParentRow)
        .where(JobParentRow.parent_id == parent_id)
        .order_by(JobParentRow.job_id, JobParentRow.field)
    )
    return session.scalars(query).all()
