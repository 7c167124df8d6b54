"""What a job's owner asks of it: cancel, pause, resume, try again.

A job that does not run obeys at once. A running one is told by its `desired`, which its worker
reads with each heartbeat.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from shared.base.errors import ConflictError
from shared.contracts.names import TERMINAL_STATES, Desired, JobState
from shared.db.repositories.jobs import get_job, lock_job
from shared.db.repositories.transitions import move_job, wish
from shared.db.session import database_now
from shared.db.tables import JobRow
from shared.jobs.life.binding import cancel_children, has_all_inputs, release

IDLE_STATES = frozenset({JobState.WAITING, JobState.QUEUED, JobState.PAUSED})


def request_cancel(session: Session, job_id: str) -> JobRow:
    """Cancel a job, and the jobs that wait for it.

    Raises ConflictError when it has succeeded or failed; a cancelled one is left as it is.
    """
    row, now = _lock(session, job_id, Desired.CANCEL, same=JobState.CANCELLED)
    if row.state is JobState.CANCELLED:
        return row
    if row.state is JobState.RUNNING:
        return _wish(session, row, Desired.CANCEL, now)
    values = {"desired": Desired.CANCEL, "finished_at": now}
    moved = move_job(
        session, row.id, sources=IDLE_STATES, to=JobState.CANCELLED, now=now, values=values
    )
    if moved is None:
        return get_job(session, job_id)
    cancel_children(session, moved, now)
    return moved


def request_pause(session: Session, job_id: str) -> JobRow:
    """Keep a job from running until it is resumed; a running one writes a checkpoint first.

    Raises ConflictError when it has ended, or is being cancelled.
    """
    row, now = _lock(session, job_id, Desired.PAUSE)
    if row.state is JobState.PAUSED:
        return row
    if row.state is JobState.RUNNING:
        return _wish(session, row, Desired.PAUSE, now)
    moved = move_job(
        session,
        row.id,
        sources={JobState.WAITING, JobState.QUEUED},
        to=JobState.PAUSED,
        now=now,
        values={"desired": Desired.PAUSE, "dispatched_at": None},
    )
    return moved or get_job(session, job_id)


def request_resume(session: Session, job_id: str) -> JobRow:
    """Let a paused job go on where it stopped.

    Raises ConflictError when it has ended, or is being cancelled.
    """
    row, now = _lock(session, job_id, Desired.RUN)
    if row.state is JobState.RUNNING:
        return _wish(session, row, Desired.RUN, now)
    if row.state is not JobState.PAUSED:
        return row
    if has_all_inputs(session, row):
        return release(session, row, now)
    moved = move_job(
        session,
        row.id,
        sources={JobState.PAUSED},
        to=JobState.WAITING,
        now=now,
        values={"desired": Desired.RUN},
    )
    return moved or get_job(session, job_id)


def _lock(
    session: Session, job_id: str, wanted: Desired, *, same: JobState | None = None
) -> tuple[JobRow, datetime]:
    """The job, locked, if the wish can still be granted (or is, in state `same`)."""
    row = lock_job(session, job_id)
    if row.state in TERMINAL_STATES and row.state is not same:
        hint = "Retry it to run it again." if row.state is not JobState.SUCCEEDED else None
        raise ConflictError(f"Job {job_id} has already {_ENDED[row.state]}.", hint=hint)
    if row.desired is Desired.CANCEL and wanted is not Desired.CANCEL:
        raise ConflictError(f"Job {job_id} is being cancelled.", hint="Retry it once it is.")
    return row, database_now(session)


_ENDED = {
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "been cancelled",
}


def _wish(session: Session, row: JobRow, desired: Desired, now: datetime) -> JobRow:
    if row.desired is desired:
        return row
    return wish(session, row.id, desired, now) or get_job(session, row.id)
