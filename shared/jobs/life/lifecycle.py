"""What a worker and the reaper do to a running job: claim, heartbeat, end, requeue.

Every write is conditional on the state and on the fence (`token`); a holder whose fence has moved
on gets LeaseLostError and has changed nothing. What users wish for is in `requests`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from shared.contracts.names import (
    TERMINAL_STATES,
    Desired,
    FailureCode,
    JobState,
    Queue,
)
from shared.db.repositories import checkpoints, jobs
from shared.db.repositories.transitions import move_job
from shared.db.session import database_now
from shared.db.tables import JobRow
from shared.db.values import clean_text
from shared.jobs.life.binding import bind_children, cancel_children, error_details
from shared.jobs.life.fence import lease_lost, lock_held
from shared.jobs.life.outputs import FinishedOutput, add_outputs
from shared.jobs.timing import LEASE_SECONDS

MAX_STALLS = 3
"""Attempts in a row without a new checkpoint after which a job has failed."""
STATE_WHEN_INTERRUPTED = {
    Desired.RUN: JobState.QUEUED,
    Desired.PAUSE: JobState.PAUSED,
    Desired.CANCEL: JobState.CANCELLED,
}
NO_LEASE: dict[str, Any] = {
    "lease_owner": None,
    "lease_expires_at": None,
    "dispatched_at": None,
    "eta_seconds": None,
}


def claim(
    session: Session,
    queue: Queue,
    *,
    worker_id: str,
    lease_seconds: float,
    free_slots: int = 1,
    all_slots: int = 1,
    owner_limit: int = 0,
) -> JobRow | None:
    """Take the best queued job of `queue` that fits into `all_slots`, raising its fence.

    None when there is none, or when it has to wait for more than `free_slots`. With `owner_limit`,
    jobs of an owner of whom so many run on this queue are passed over.
    """
    if owner_limit:
        jobs.lock_owner_counts(session)
    busy = jobs.owners_at_limit(session, queue, owner_limit)
    while row := jobs.next_claimable(session, queue, most_slots=all_slots, passed_over=busy):
        if row.num_slots > free_slots:
            return None
        now = database_now(session)
        values = {
            "token": row.token + 1,
            "attempt": row.attempt + 1,
            "lease_owner": worker_id,
            "lease_expires_at": now + timedelta(seconds=lease_seconds),
            "started_at": row.started_at or now,
            "phase": "starting",
            "message": "",
            "tokens_per_second": None,
            "eta_seconds": None,
        }
        details = {"worker": worker_id, "resume_step": _resume_step(session, row)}
        claimed = move_job(
            session,
            row.id,
            sources={JobState.QUEUED},
            to=JobState.RUNNING,
            now=now,
            held_token=row.token,
            details=details,
            values=values,
        )
        if claimed is not None:
            return claimed
    return None


def resume_checkpoint_id(row: JobRow) -> str | None:
    """The checkpoint from which the job's next attempt goes on, if there is one."""
    return row.last_checkpoint_id or row.resolved_inputs.get("resume_from")


def heartbeat(session: Session, job_id: str, token: int, *, lease_seconds: float) -> Desired:
    """Extend the lease and return what the job's owner wants; raises LeaseLostError."""
    expires_at = database_now(session) + timedelta(seconds=lease_seconds)
    desired = jobs.renew_lease(session, job_id, token, expires_at=expires_at)
    if desired is None:
        raise lease_lost(job_id, token)
    return desired


def succeed(
    session: Session, job_id: str, token: int, *, outputs: Sequence[FinishedOutput] = ()
) -> JobRow:
    """End a job well: write its artifacts and hand them to the jobs that wait for them.

    The checkpoint of a training job is not among `outputs`: it was committed before, and the last
    one (or the best, where that is what gets published) becomes the output.

    Raises JobFailedError (code `crashed`) when an output of the kind is missing.
    """
    held = lock_held(session, job_id, token)
    now = database_now(session)
    ids = add_outputs(session, held, outputs, now)
    row = _leave(
        session, held, JobState.SUCCEEDED, now, details={"outputs": ids}, values={"outputs": ids}
    )
    bind_children(session, row, now)
    return row


def fail(
    session: Session,
    job_id: str,
    token: int,
    *,
    code: FailureCode,
    message: str,
    hint: str | None = None,
) -> JobRow:
    """End a job that can never succeed, and cancel the jobs that wait for it."""
    held = lock_held(session, job_id, token)
    return _fail(session, held, database_now(session), code=code, message=message, hint=hint)


def requeue(session: Session, job_id: str, token: int) -> JobRow:
    """Give back a job that was drained; it goes where its owner wants it. No stall."""
    held = lock_held(session, job_id, token)
    return _leave(session, held, STATE_WHEN_INTERRUPTED[held.desired], database_now(session))


def park(session: Session, job_id: str, token: int) -> JobRow:
    """Give back a job whose process has paused; if its owner has resumed it since, it is queued."""
    return requeue(session, job_id, token)


def forsake_checkpoint(
    session: Session, job_id: str, token: int, *, checkpoint_id: str, message: str
) -> JobRow:
    """Give back a job whose last checkpoint is damaged: it goes on from the one before.

    No stall: there are only so many checkpoints, and each can be forsaken once.
    """
    held = lock_held(session, job_id, token)
    now = database_now(session)
    checkpoints.mark_damaged(session, checkpoint_id, now)
    sound = checkpoints.newest_sound_checkpoint(session, job_id)
    return _leave(
        session,
        held,
        STATE_WHEN_INTERRUPTED[held.desired],
        now,
        details={"reason": clean_text(message), "damaged_checkpoint": checkpoint_id},
        values={"last_checkpoint_id": None if sound is None else sound.id},
    )


def cancelled(session: Session, job_id: str, token: int) -> JobRow:
    """End a job whose process has obeyed a cancel, and cancel the jobs that wait for it."""
    held = lock_held(session, job_id, token)
    return _leave(session, held, JobState.CANCELLED, database_now(session))


def stall(
    session: Session,
    job_id: str,
    token: int,
    *,
    message: str,
    hint: str | None = None,
    code: FailureCode = FailureCode.CRASHED,
) -> JobRow:
    """Give back a job whose process crashed: queued again, or failed when it keeps crashing.

    MAX_STALLS attempts without a new checkpoint are the limit.
    """
    held = lock_held(session, job_id, token)
    return _stall(session, held, database_now(session), code=code, message=message, hint=hint)


def reap_expired(
    session: Session, now: datetime, *, lease_seconds: float = LEASE_SECONDS
) -> list[str]:
    """Take running jobs from workers whose lease has ended before `now`; return their ids.

    Only the leader does this, after one whole lease of unbroken contact with the database.
    """
    reaped = jobs.expired_jobs(session, now, timedelta(seconds=lease_seconds))
    for row in reaped:
        _stall(
            session,
            row,
            now,
            code=FailureCode.LOST_WORKER,
            message=f"Worker {row.lease_owner} was silent for longer than its lease.",
            hint="See that worker's log; the machine may have gone down or to sleep.",
        )
    return [row.id for row in reaped]


def _leave(
    session: Session,
    held: JobRow,
    to: JobState,
    now: datetime,
    *,
    details: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
) -> JobRow:
    """Take a running, locked job to `to`; a terminal state takes its waiting jobs along."""
    ends = to in TERMINAL_STATES
    token = held.token
    row = move_job(
        session,
        held.id,
        sources={JobState.RUNNING},
        to=to,
        now=now,
        held_token=token,
        details=details,
        values={**NO_LEASE, "finished_at": now if ends else None, **(values or {})},
    )
    if row is None:
        raise lease_lost(held.id, token)
    if ends and to is not JobState.SUCCEEDED:
        cancel_children(session, row, now)
    return row


def _fail(
    session: Session,
    held: JobRow,
    now: datetime,
    *,
    code: FailureCode,
    message: str,
    hint: str | None,
    values: Mapping[str, Any] | None = None,
) -> JobRow:
    error = {
        "error_code": code,
        "error_message": clean_text(message),
        "error_hint": None if hint is None else clean_text(hint),
    }
    return _leave(
        session,
        held,
        JobState.FAILED,
        now,
        details=error_details(error),
        values={**error, **(values or {})},
    )


def _stall(
    session: Session,
    held: JobRow,
    now: datetime,
    *,
    code: FailureCode,
    message: str,
    hint: str | None,
) -> JobRow:
    stalls = held.stalls + 1
    fence = {"stalls": stalls, "token": held.token + 1}
    if held.desired is not Desired.CANCEL and stalls >= MAX_STALLS:
        message = f"{message} This was attempt {stalls} in a row without a new checkpoint."
        return _fail(session, held, now, code=code, message=message, hint=hint, values=fence)
    details = {"stalls": stalls, "reason": clean_text(message), "code": code}
    to = STATE_WHEN_INTERRUPTED[held.desired]
    return _leave(session, held, to, now, details=details, values=fence)


def _resume_step(session: Session, row: JobRow) -> int | None:
    checkpoint_id = resume_checkpoint_id(row)
    found = checkpoints.find_checkpoint(session, checkpoint_id) if checkpoint_id else None
    return None if found is None else found.step
