"""Rows that say who is alive: workers and the leader; and answers kept for a while."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from shared.db.inserts import insert_unless_present
from shared.db.tables import IdempotencyRow, LeaderRow, WorkerRow


def save_worker(session: Session, row: WorkerRow) -> None:
    """Insert or replace a worker's sign of life."""
    session.merge(row)
    session.flush()


def delete_worker(session: Session, worker_id: str) -> None:
    """Forget a worker that has stopped."""
    session.execute(delete(WorkerRow).where(WorkerRow.id == worker_id))


def list_workers(session: Session, *, seen_since: datetime | None = None) -> Sequence[WorkerRow]:
    """All workers by id, or those that gave a sign of life since then."""
    query = select(WorkerRow).order_by(WorkerRow.id).execution_options(populate_existing=True)
    if seen_since is not None:
        query = query.where(WorkerRow.heartbeat_at >= seen_since)
    return session.scalars(query).all()


def delete_silent_workers(session: Session, *, seen_before: datetime) -> None:
    """Forget workers without a sign of life since then."""
    session.execute(delete(WorkerRow).where(WorkerRow.heartbeat_at < seen_before))


def take_leadership(
    session: Session, name: str, owner: str, *, now: datetime, lease: timedelta
) -> int | None:
    """Become the leader if there is none or its lease has ended; return the leader token.

    A lease that ends later than any can was given before the clock was set back.
    """
    first = {"name": name, "owner": "", "token": 0, "expires_at": now}
    insert_unless_present(session, LeaderRow, [first])
    return session.scalars(
        update(LeaderRow)
        .where(
            LeaderRow.name == name,
            or_(
                LeaderRow.expires_at <= now,
                LeaderRow.expires_at > now + 2 * lease,
                LeaderRow.owner == "",
            ),
        )
        .values(owner=owner, token=LeaderRow.token + 1, expires_at=now + lease)
        .returning(LeaderRow.token)
        .execution_options(synchronize_session=False)
    ).one_or_none()


def renew_leadership(
    session: Session, name: str, owner: str, token: int, *, expires_at: datetime
) -> bool:
    """Extend the leader's lease; False when somebody else leads. Locks the row until commit."""
    renewed = session.scalars(
        update(LeaderRow)
        .where(LeaderRow.name == name, LeaderRow.owner == owner, LeaderRow.token == token)
        .values(expires_at=expires_at)
        .returning(LeaderRow.token)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    return renewed is not None


def find_leader(session: Session, name: str) -> LeaderRow | None:
    """Who leads, or led last; None before the first leader."""
    return session.get(LeaderRow, name, populate_existing=True)


def release_leadership(session: Session, name: str, owner: str, token: int) -> None:
    """Let another one lead at once."""
    session.execute(
        update(LeaderRow)
        .where(LeaderRow.name == name, LeaderRow.owner == owner, LeaderRow.token == token)
        .values(owner="")
        .execution_options(synchronize_session=False)
    )


def delete_old_answers(session: Session, *, before: datetime) -> None:
    """Forget the answers given before then."""
    session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_at < before))
