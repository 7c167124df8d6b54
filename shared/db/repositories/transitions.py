"""The guarded writes on a job's row: changes of state and everything a worker adds to its stream.

Each is one UPDATE whose WHERE holds the condition, and takes its sequence numbers from the row in
the same statement, so that numbers are given once, in the order of the commits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, update
from sqlalchemy.orm import Session

from shared.contracts.names import LEGAL_TRANSITIONS, Desired, JobState
from shared.contracts.views import EventType
from shared.db.tables import EventRow, JobRow


def move_job(
    session: Session,
    job_id: str,
    *,
    sources: Collection[JobState],
    to: JobState,
    now: datetime,
    held_token: int | None = None,
    details: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
) -> JobRow | None:
    """Bring a job from one of `sources` to `to`, and append the `state` event that says so.

    Illegal sources (see LEGAL_TRANSITIONS) are never left. `held_token`: the fence the row must
    still have. `details` join the event, `values` the row. Returns None when nothing was changed.
    """
    legal = [state for state in sources if to in LEGAL_TRANSITIONS[state]]
    guards: list[ColumnElement[bool]] = [JobRow.state.in_(legal)]
    if held_token is not None:
        guards.append(JobRow.token == held_token)
    row = _advance(session, job_id, guards, 1, {**(values or {}), "state": to})
    if row is not None:
        add_event(session, row, EventType.STATE, {"state": to, **(details or {})}, now)
    return row


def wish(session: Session, job_id: str, desired: Desired, now: datetime) -> JobRow | None:
    """Tell the holder of a running job what its owner wants; None when it is not running."""
    row = _advance(session, job_id, [JobRow.state == JobState.RUNNING], 1, {"desired": desired})
    if row is not None:
        add_event(session, row, EventType.STATE, {"state": row.state, "desired": desired}, now)
    return row


def advance_held_job(
    session: Session, job_id: str, token: int, *, count: int, values: Mapping[str, Any]
) -> JobRow | None:
    """Take the next `count` numbers of a running job's stream for the holder of `token`.

    The numbers are `row.seq - count + 1` to `row.seq`. Returns None when the fence has moved on.
    """
    guards = [JobRow.state == JobState.RUNNING, JobRow.token == token]
    return _advance(session, job_id, guards, count, values)


def add_event(
    session: Session,
    row: JobRow,
    event_type: EventType,
    data: Mapping[str, Any],
    now: datetime,
    *,
    seq: int | None = None,
) -> None:
    """Append an entry to a job's stream; its number must have been taken (by default: the last)."""
    session.add(
        EventRow(
            job_id=row.id,
            seq=row.seq if seq is None else seq,
            type=event_type,
            attempt=row.attempt,
            token=row.token,
            at=now,
            data=dict(data),
        )
    )
    session.flush()


def _advance(
    session: Session,
    job_id: str,
    guards: Collection[ColumnElement[bool]],
    count: int,
    values: Mapping[str, Any],
) -> JobRow | None:
    statement = (
        update(JobRow)
        .where(JobRow.id == job_id, *guards)
        .values({**values, "seq": JobRow.seq + count})
        .returning(JobRow)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    return session.scalars(statement).one_or_none()
