"""Rows of jobs: finding, locking, listing, and the plain facts about them.

Changes of state are in `transitions`; when they are made is the business of `shared.jobs`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Select, func, or_, select, text, update
from sqlalchemy.orm import Session

from shared.base.errors import NotFoundError
from shared.contracts.names import TERMINAL_STATES, Desired, JobKind, JobState, Queue
from shared.db.tables import JobRow

OWNER_COUNTS_LOCK = 0x5279_4750
"""Key of an advisory lock; any number that nothing else uses."""


def find_job(session: Session, job_id: str) -> JobRow | None:
    """The job as it is now, or None."""
    return session.get(JobRow, job_id, populate_existing=True)


def get_job(session: Session, job_id: str) -> JobRow:
    """The job as it is now; raises NotFoundError."""
    return _required(find_job(session, job_id), job_id)


def lock_job(session: Session, job_id: str) -> JobRow:
    """The job, which nobody else changes before this transaction ends; raises NotFoundError."""
    row = session.get(JobRow, job_id, populate_existing=True, with_for_update=True)
    return _required(row, job_id)


def share_job(session: Session, job_id: str) -> JobRow | None:
    """The job, held so that it cannot finish before this transaction ends.

    A child is written under this lock: its parent's success then either comes before (and is seen
    here) or after (and finds the child).
    """
    return session.get(JobRow, job_id, populate_existing=True, with_for_update={"read": True})


def lock_held_job(session: Session, job_id: str, token: int) -> JobRow | None:
    """The running job, locked, if `token` is still its fence."""
    query = select(JobRow).where(
        JobRow.id == job_id, JobRow.token == token, JobRow.state == JobState.RUNNING
    )
    return session.scalars(_fresh(query).with_for_update()).one_or_none()


def add_job(session: Session, row: JobRow) -> None:
    """Insert a job."""
    session.add(row)
    session.flush()


def owners_at_limit(session: Session, queue: Queue, limit: int) -> Sequence[str]:
    """Owners of `limit` or more jobs that run on `queue`; none when `limit` is 0."""
    if limit == 0:
        return []
    query = (
        select(JobRow.owner)
        .where(JobRow.state == JobState.RUNNING, JobRow.queue == queue)
        .group_by(JobRow.owner)
        .having(func.count() >= limit)
    )
    return session.scalars(query).all()


def count_open(session: Session, owner: str) -> int:
    """Jobs of an owner that wait or are queued."""
    query = (
        select(func.count())
        .select_from(JobRow)
        .where(JobRow.owner == owner, JobRow.state.in_([JobState.WAITING, JobState.QUEUED]))
    )
    return session.scalar(query) or 0


def lock_owner_counts(session: Session) -> None:
    """Let nobody else count and then act on the count before this transaction ends.

    SQLite has one writer at a time anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": OWNER_COUNTS_LOCK})


def next_claimable(
    session: Session, queue: Queue, *, most_slots: int = 1, passed_over: Collection[str] = ()
) -> JobRow | None:
    """The queued job of `queue`, of those that need no more slots, to run next: by priority, then
    age. Jobs of the owners `passed_over` are not considered."""
    query = (
        select(JobRow)
        .where(
            JobRow.state == JobState.QUEUED,
            JobRow.queue == queue,
            JobRow.num_slots <= most_slots,
            JobRow.owner.not_in(passed_over),
        )
        .order_by(JobRow.priority.desc(), JobRow.created_at, JobRow.id)
        .limit(1)
    )
    return session.scalars(_fresh(query).with_for_update(skip_locked=True)).one_or_none()


def expired_jobs(session: Session, now: datetime, lease: timedelta) -> Sequence[JobRow]:
    """Running jobs whose lease ended before `now`, locked; those that are locked are left out.

    A lease that ends later than any can was given before the clock was set back, and not renewed
    since.
    """
    query = (
        select(JobRow)
        .where(
            JobRow.state == JobState.RUNNING,
            or_(JobRow.lease_expires_at < now, JobRow.lease_expires_at > now + 2 * lease),
        )
        .order_by(JobRow.id)
    )
    return session.scalars(_fresh(query).with_for_update(skip_locked=True)).all()


def undispatched_jobs(
    session: Session,
    queue: Queue,
    *,
    sent_before: datetime,
    limit: int,
    passed_over: Collection[str] = (),
) -> Sequence[str]:
    """Ids of queued jobs without a wake-up since `sent_before`: by priority, then age."""
    query = (
        select(JobRow.id)
        .where(
            JobRow.state == JobState.QUEUED,
            JobRow.queue == queue,
            JobRow.owner.not_in(passed_over),
            or_(JobRow.dispatched_at.is_(None), JobRow.dispatched_at < sent_before),
        )
        .order_by(JobRow.priority.desc(), JobRow.created_at, JobRow.id)
        .limit(limit)
    )
    return session.scalars(query).all()


def count_outstanding(
    session: Session, queue: Queue, *, sent_since: datetime, passed_over: Collection[str] = ()
) -> int:
    """Queued jobs whose wake-up is under way."""
    return (
        session.scalar(
            select(func.count())
            .select_from(JobRow)
            .where(
                JobRow.state == JobState.QUEUED,
                JobRow.queue == queue,
                JobRow.owner.not_in(passed_over),
                JobRow.dispatched_at >= sent_since,
            )
        )
        or 0
    )


def count_by_state(session: Session) -> dict[tuple[Queue, JobState], int]:
    """How many jobs stand where, by queue."""
    query = select(JobRow.queue, JobRow.state, func.count()).group_by(JobRow.queue, JobRow.state)
    return {(queue, state): count for queue, state, count in session.execute(query)}


def occupied_slots(session: Session) -> dict[Queue, int]:
    """How many slots running jobs occupy, by queue."""
    query = (
        select(JobRow.queue, func.sum(JobRow.num_slots))
        .where(JobRow.state == JobState.RUNNING)
        .group_by(JobRow.queue)
    )
    return {queue: int(count) for queue, count in session.execute(query)}


def mark_dispatched(session: Session, job_ids: Collection[str], now: datetime) -> None:
    """Remember that a wake-up was sent for these jobs."""
    session.execute(
        update(JobRow)
        .where(JobRow.id.in_(job_ids), JobRow.state == JobState.QUEUED)
        .values(dispatched_at=now)
        .execution_options(synchronize_session=False)
    )


def renew_lease(
    session: Session, job_id: str, token: int, *, expires_at: datetime
) -> Desired | None:
    """Extend the lease of a running job; return what its owner wants, or None if it is lost."""
    return session.scalars(
        update(JobRow)
        .where(JobRow.id == job_id, JobRow.token == token, JobRow.state == JobState.RUNNING)
        .values(lease_expires_at=expires_at)
        .returning(JobRow.desired)
        .execution_options(synchronize_session=False)
    ).one_or_none()


def bind_input(session: Session, row: JobRow, field: str, artifact_id: str) -> None:
    """Note which artifact one of the job's inputs is; the row must be locked."""
    row.resolved_inputs = {**row.resolved_inputs, field: artifact_id}
    session.flush()


def find_reusable(session: Session, kind: JobKind, reuse_key: str) -> JobRow | None:
    """The newest succeeded job of this kind that did exactly the same."""
    query = (
        select(JobRow)
        .where(
            JobRow.reuse_key == reuse_key,
            JobRow.kind == kind,
            JobRow.state == JobState.SUCCEEDED,
        )
        .order_by(JobRow.id.desc())
        .limit(1)
    )
    return session.scalars(query).one_or_none()


def newest_retry(session: Session, job_id: str) -> JobRow | None:
    """The newest job that tries `job_id` again, if there is one."""
    query = select(JobRow).where(JobRow.retry_of == job_id).order_by(JobRow.id.desc()).limit(1)
    return session.scalars(query).one_or_none()


def inputs_of_open_jobs(session: Session) -> set[str]:
    """Ids of everything that a job which has not ended yet takes in."""
    query = select(JobRow.resolved_inputs).where(JobRow.state.not_in(TERMINAL_STATES))
    return {artifact for inputs in session.scalars(query) for artifact in inputs.values()}


def list_jobs(
    session: Session,
    *,
    state: JobState | None = None,
    kind: JobKind | None = None,
    pipeline_id: str | None = None,
    after: str | None = None,
    limit: int,
) -> Sequence[JobRow]:
    """Up to `limit` jobs, newest first, older than the job `after`."""
    query = select(JobRow).order_by(JobRow.id.desc()).limit(limit)
    if state is not None:
        query = query.where(JobRow.state == state)
    if kind is not None:
        query = query.where(JobRow.kind == kind)
    if pipeline_id is not None:
        query = query.where(JobRow.pipeline_id == pipeline_id)
    if after is not None:
        query = query.where(JobRow.id < after)
    return session.scalars(query).all()


def _fresh(query: Select[JobRow]) -> Select[JobRow]:
    """Take the row as the database has it, not as this session once read it."""
    return query.execution_options(populate_existing=True)


def _required(row: JobRow | None, job_id: str) -> JobRow:
    if row is None:
        raise NotFoundError(f"There is no job {job_id}.")
    return row
