"""Transactions on SQLite, and errors in the project's own words."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Insert, insert, select, text
from sqlalchemy.exc import IntegrityError, OperationalError, StatementError

from shared.base.errors import StartupError, UnavailableError
from shared.db import session as session_module
from shared.db.session import Database, database_now
from shared.db.tables import Base, PipelineRow

MOMENT = datetime(2026, 5, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    Base.metadata.create_all(database.engine)
    yield database
    database.close()


def names(database: Database) -> list[str]:
    with database.reading() as session:
        return list(session.scalars(select(PipelineRow.name).order_by(PipelineRow.name)))


def write(database: Database, *statements: Insert) -> None:
    with database.transaction() as session:
        for statement in statements:
            session.execute(statement)


def pipeline(name: str, created_at: datetime = MOMENT) -> PipelineRow:
    return PipelineRow(id=name, name=name, created_at=created_at)


def test_a_transaction_commits_or_leaves_nothing(database: Database) -> None:
    with database.transaction() as session:
        session.add(pipeline("kept"))
    again = insert(PipelineRow).values(id="kept", name="again", created_at=MOMENT)
    with pytest.raises(IntegrityError):
        write(database, insert(PipelineRow).values(id="a", name="a", created_at=MOMENT), again)
    with database.reading() as session:
        session.add(pipeline("never written"))
        session.flush()
    assert names(database) == ["kept"]


def test_a_write_waits_for_its_turn_and_sees_the_other_one(database: Database) -> None:
    """Read, then write: two threads that interleaved would lose an increment."""

    def increment() -> None:
        for _ in range(20):
            with database.transaction() as session:
                row = session.get_one(PipelineRow, "counter")
                row.name = str(int(row.name) + 1)

    with database.transaction() as session:
        session.add(PipelineRow(id="counter", name="0", created_at=MOMENT))
    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(database) == ["80"]


def test_sqlite_is_durable_and_keeps_its_references(database: Database) -> None:
    with database.reading() as session:
        pragmas = {
            name: session.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    with pytest.raises(IntegrityError), database.transaction() as session:
        session.execute(
            text("INSERT INTO job_parents VALUES ('job_a', 'dataset', 'job_b', 'dataset')")
        )


def test_times_are_aware_and_utc(database: Database) -> None:
    elsewhere = MOMENT.astimezone(timezone(timedelta(hours=5)))
    with database.transaction() as session:
        session.add(pipeline("a", elsewhere))
    with database.reading() as session:
        stored = session.get_one(PipelineRow, "a").created_at
        assert (stored, stored.tzinfo) == (MOMENT, UTC)
        assert database_now(session).tzinfo is UTC
    with pytest.raises(StatementError, match="naive"), database.transaction() as session:
        session.add(pipeline("b", MOMENT.replace(tzinfo=None)))


def test_a_locked_database_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "SQLITE_BUSY_SECONDS", 0.05)
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    database.check()
    holder = sqlite3.connect(tmp_path / "test.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(UnavailableError, match="locked") as raised, database.transaction():
        pass
    assert raised.value.code == "database"
    holder.rollback()
    with database.transaction() as session:
        assert session.execute(text("SELECT 1")).scalar_one() == 1
    holder.close()
    database.close()


def test_a_new_file_that_another_process_writes_to_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("CREATE TABLE theirs (x)")
        ends = threading.Timer(0.3, other.execute, ["COMMIT"])
        ends.start()
        database = Database(f"sqlite:///{path}")
        with database.reading() as session:
            assert session.scalar(text("PRAGMA journal_mode")) == "wal"
            assert session.scalars(text("SELECT name FROM sqlite_master")).all() == ["theirs"]
        ends.join()
        database.close()


def test_a_mistake_in_a_statement_is_not_an_outage(database: Database) -> None:
    with pytest.raises(OperationalError), database.reading() as session:
        session.execute(text("SELECT * FROM nowhere"))


def test_a_server_that_is_not_there_is_unavailable() -> None:
    database = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    with pytest.raises(UnavailableError) as raised:
        database.check()
    assert raised.value.code == "database"
    database.close()


@pytest.mark.parametrize("url", ["mysql://a@b/c", "not a url", ""])
def test_other_databases_are_refused_in_one_sentence(url: str) -> None:
    with pytest.raises(StartupError):
        Database(url)
