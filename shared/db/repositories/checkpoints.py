"""Rows of committed checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from shared.base.errors import NotFoundError
from shared.db.tables import CheckpointRow


def add_checkpoint(session: Session, row: CheckpointRow) -> None:
    """Insert a checkpoint; from here on it exists."""
    session.add(row)
    session.flush()


def find_checkpoint(session: Session, checkpoint_id: str) -> CheckpointRow | None:
    """The checkpoint as it is now, or None; `deleted_at` says whether it is still there."""
    return session.get(CheckpointRow, checkpoint_id, populate_existing=True)


def get_checkpoint(session: Session, checkpoint_id: str) -> CheckpointRow:
    """The checkpoint, which still has its objects; raises NotFoundError."""
    row = find_checkpoint(session, checkpoint_id)
    if row is None:
        raise NotFoundError(f"There is no checkpoint {checkpoint_id}.")
    if row.deleted_at is not None:
        raise NotFoundError(
            f"Checkpoint {checkpoint_id} was removed by retention.",
            hint="Raise keep_checkpoints, or publish or pin what must stay.",
        )
    return row


def share_checkpoint(session: Session, checkpoint_id: str) -> CheckpointRow | None:
    """The checkpoint, held so that retention cannot take it before this transaction ends."""
    return session.get(
        CheckpointRow, checkpoint_id, populate_existing=True, with_for_update={"read": True}
    )


def list_checkpoints(session: Session, job_id: str) -> Sequence[CheckpointRow]:
    """The checkpoints of a job that still have their objects, by rising step, then age."""
    query = (
        select(CheckpointRow)
        .where(CheckpointRow.job_id == job_id, CheckpointRow.deleted_at.is_(None))
        .order_by(CheckpointRow.step, CheckpointRow.id)
    )
    return session.scalars(query).all()


def lock_checkpoints(session: Session, job_id: str) -> Sequence[CheckpointRow]:
    """The same in the order of commits, locked: nobody chooses or removes one meanwhile."""
    query = (
        select(CheckpointRow)
        .where(CheckpointRow.job_id == job_id, CheckpointRow.deleted_at.is_(None))
        .order_by(CheckpointRow.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return session.scalars(query).all()


def best_checkpoint(session: Session, job_id: str) -> CheckpointRow | None:
    """The newest checkpoint of a job that was its best when it was committed."""
    query = (
        select(CheckpointRow)
        .where(
            CheckpointRow.job_id == job_id,
            CheckpointRow.best,
            CheckpointRow.deleted_at.is_(None),
            CheckpointRow.damaged_at.is_(None),
        )
        .order_by(CheckpointRow.id.desc())
        .limit(1)
    )
    return session.scalars(query).one_or_none()


def newest_sound_checkpoint(session: Session, job_id: str) -> CheckpointRow | None:
    """The newest checkpoint of a job that is there and not known to be damaged."""
    query = (
        select(CheckpointRow)
        .where(
            CheckpointRow.job_id == job_id,
            CheckpointRow.deleted_at.is_(None),
            CheckpointRow.damaged_at.is_(None),
        )
        .order_by(CheckpointRow.id.desc())
        .limit(1)
    )
    return session.scalars(query).one_or_none()


def mark_damaged(session: Session, checkpoint_id: str, now: datetime) -> None:
    """Let nothing resume from this checkpoint any more."""
    session.execute(
        update(CheckpointRow)
        .where(CheckpointRow.id == checkpoint_id)
        .values(damaged_at=now)
        .execution_options(synchronize_session=False)
    )


def mark_deleted(session: Session, checkpoint_ids: Collection[str], now: datetime) -> None:
    """Let these checkpoints be gone for every reader."""
    session.execute(
        update(CheckpointRow)
        .where(CheckpointRow.id.in_(checkpoint_ids), CheckpointRow.deleted_at.is_(None))
        .values(deleted_at=now)
        .execution_options(synchronize_session=False)
    )
