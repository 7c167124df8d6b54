"""Answers kept by Idempotency-Key, so that a request sent twice is done once."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from shared.db.inserts import insert_unless_present
from shared.db.tables import IdempotencyRow

NOT_ANSWERED = 0
"""Status of a key that the present transaction has just taken."""


def take_key(session: Session, key: str, *, request_sha256: str, now: datetime) -> IdempotencyRow:
    """The row of `key`; its status is NOT_ANSWERED when this transaction is the first to ask.

    A second transaction with the same key waits here for the first one to end: it then sees that
    one's answer or, after a rollback, is the first itself. The first must fill in the answer.
    """
    values = {
        "key": key,
        "request_sha256": request_sha256,
        "status": NOT_ANSWERED,
        "location": "",
        "response": {},
        "created_at": now,
    }
    insert_unless_present(session, IdempotencyRow, [values])
    return session.get_one(IdempotencyRow, key, populate_existing=True)


def keep_answer(
    session: Session,
    row: IdempotencyRow,
    *,
    status: int,
    location: str,
    response: dict[str, object],
) -> None:
    """Fill in the answer of a key that was taken in this transaction."""
    row.status, row.location, row.response = status, location, response
    session.flush()
