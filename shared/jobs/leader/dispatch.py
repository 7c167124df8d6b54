"""Which queued jobs to wake a worker for, and noting that it was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.orm import Session

from shared.contracts.names import Queue
from shared.db.repositories import jobs
from shared.db.session import database_now
from shared.jobs.life.presence import free_slots

WAKES_PER_SLOT = 2
"""Wake-ups under way for each free slot: a lost one does not leave the slot idle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """One wake-up to send."""

    queue: Queue
    job_id: str


def plan_wakes(
    session: Session, *, lease_seconds: float, resend_seconds: float, owner_limit: int = 0
) -> list[Wake]:
    """The wake-ups that are due: by queue, priority and age, bounded by the free slots.

    Nobody is woken for a job whose owner has `owner_limit` jobs running on its queue.

    A job that is still queued `resend_seconds` after its wake-up is sent for again.
    """
    now = database_now(session)
    sent_since = now - timedelta(seconds=resend_seconds)
    wakes: list[Wake] = []
    for queue, free in free_slots(session, now, lease_seconds=lease_seconds).items():
        if free == 0:
            continue
        busy = jobs.owners_at_limit(session, queue, owner_limit)
        outstanding = jobs.count_outstanding(
            session, queue, sent_since=sent_since, passed_over=busy
        )
        room = WAKES_PER_SLOT * free - outstanding
        if room > 0:
            due = jobs.undispatched_jobs(
                session, queue, sent_before=sent_since, limit=room, passed_over=busy
            )
            wakes += [Wake(queue=queue, job_id=job_id) for job_id in due]
    return wakes


def note_wakes(session: Session, sent: Sequence[Wake]) -> None:
    """Remember when these were sent."""
    jobs.mark_dispatched(session, [wake.job_id for wake in sent], database_now(session))
