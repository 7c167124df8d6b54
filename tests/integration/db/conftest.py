"""A real PostgreSQL server, emptied for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.db.migrate import upgrade
from shared.db.session import Database
from tests.support.databases import empty_all_tables
from tests.support.postgres import CannotStartError, running_postgres


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of an empty database on a server of our own; skips loudly without one."""
    try:
        server = running_postgres()
        url = server.__enter__()
    except CannotStartError as error:
        pytest.skip(f"PostgreSQL cannot be started: {error}")
    yield url
    server.__exit__(None, None, None)


@pytest.fixture(scope="session")
def migrated_postgres(postgres_url: str) -> Iterator[Database]:
    """A database with all tables."""
    database = Database(postgres_url)
    upgrade(database)
    yield database
    database.close()


@pytest.fixture
def database(migrated_postgres: Database) -> Database:
    """The same without rows, under the name by which the unit tests ask for theirs."""
    empty_all_tables(migrated_postgres)
    return migrated_postgres
