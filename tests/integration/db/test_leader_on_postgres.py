"""The tests of tests/unit/jobs/test_leader.py, on PostgreSQL, and a leader that left a lock."""

from __future__ import annotations

from functools import partial

import pytest

from shared.db.session import Database
from shared.db.stuck import end_stuck_transactions
from shared.jobs.leader import loop
from shared.jobs.leader.leadership import Leadership
from shared.jobs.leader.loop import LeaderLoop
from tests.support.databases import cut_off_within
from tests.support.waiting import wait_until
from tests.unit.jobs.test_leader import *  # noqa: F403 - collected here with this folder's database

pytestmark = pytest.mark.integration


def test_a_leader_cut_off_within_a_statement_is_followed(
    database: Database, leader: LeaderLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its successors wait for the row that it has locked."""
    monkeypatch.setattr(loop, "end_stuck_transactions", partial(end_stuck_transactions, seconds=1))
    with database.transaction() as session:
        assert Leadership("gone", lease_seconds=0.1).hold(session)
    with cut_off_within(database, "UPDATE leaders SET owner = 'gone'"):
        leader.start()
        wait_until(lambda: leader.leading, "another one leads")
