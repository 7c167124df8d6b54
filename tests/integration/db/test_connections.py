"""What PostgreSQL is told about our connections, and what becomes of a silent one."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import text

from shared.base.errors import UnavailableError
from shared.db.session import APPLICATION_NAME, Database, database_now
from shared.db.stuck import end_stuck_transactions
from shared.jobs.life import lifecycle
from tests.support.databases import cut_off_within
from tests.support.rows import running_training
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration
LOCK_JOBS = "UPDATE jobs SET message = ''"


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


def test_a_client_cut_off_within_a_statement_does_not_keep_its_job(database: Database) -> None:
    """The server's own timeout does not see it: what has arrived is not a whole request."""
    with database.transaction() as session:
        job = running_training(session)
        late = database_now(session) + timedelta(seconds=60)
    with cut_off_within(database, LOCK_JOBS):
        threading.Event().wait(0.5)
        with database.transaction() as session:
            assert lifecycle.reap_expired(session, late) == []
            assert end_stuck_transactions(session, seconds=60.0) == 0
            assert end_stuck_transactions(session, seconds=0.2) == 1

        def is_taken() -> bool:
            with database.transaction() as session:
                return lifecycle.reap_expired(session, late) == [job.id]

        wait_until(is_taken, "its connection has ended and the job is taken", seconds=30.0)


@pytest.mark.parametrize("name", ["pg_dump", f"{APPLICATION_NAME} migration"])
def test_other_programs_may_take_their_time(database: Database, name: str) -> None:
    with database.transaction() as session:
        running_training(session)
    with cut_off_within(database, LOCK_JOBS, application_name=name):
        threading.Event().wait(0.1)
        with database.transaction() as session:
            assert end_stuck_transactions(session, seconds=0.0) == 0
