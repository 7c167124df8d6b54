"""The fence in front of every write of a worker: the job must run, and under its token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from shared.base.errors import LeaseLostError
from shared.db.repositories.jobs import lock_held_job
from shared.db.repositories.transitions import advance_held_job
from shared.db.tables import JobRow


def lock_held(session: Session, job_id: str, token: int) -> JobRow:
    """The running job, locked for this transaction; raises LeaseLostError."""
    row = lock_held_job(session, job_id, token)
    if row is None:
        raise lease_lost(job_id, token)
    return row


def advance(
    session: Session, job_id: str, token: int, *, count: int, values: Mapping[str, Any]
) -> JobRow:
    """Take the next `count` numbers of the job's stream, up to `row.seq`; or LeaseLostError."""
    row = advance_held_job(session, job_id, token, count=count, values=values)
    if row is None:
        raise lease_lost(job_id, token)
    return row


def lease_lost(job_id: str, token: int) -> LeaseLostError:
    """The error of a write that came too late."""
    return LeaseLostError(
        f"Token {token} of job {job_id} is no longer valid: the job has ended or another worker "
        "has it."
    )
