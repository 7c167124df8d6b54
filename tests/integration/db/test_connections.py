"""What PostgreSQL is told about our connections, and what becomes of a silent one."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text

from shared.base.errors import UnavailableError
from shared.db.session import Database

pytestmark = pytest.mark.integration


def test_a_silent_transaction_is_ended_by_the_server(database: Database) -> None:
    with database.reading() as session:
        shown = session.scalar(text("SHOW idle_in_transaction_session_timeout"))
    assert shown == "15s"


def test_whoever_wakes_in_an_ended_transaction_can_try_again(database: Database) -> None:
    with pytest.raises(UnavailableError, match="idle-in-transaction timeout"):
        _be_silent_in_a_transaction(database)
    database.check()


def _be_silent_in_a_transaction(database: Database) -> None:
    with database.transaction() as session:
        session.execute(text("SET idle_in_transaction_session_timeout = '10ms'"))
        while True:
            threading.Event().wait(0.1)
            session.execute(text("SELECT 1"))
