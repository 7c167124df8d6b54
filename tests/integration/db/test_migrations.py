"""The migrations make exactly the tables of the code, on both databases."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from shared.base.errors import StartupError
from shared.base.settings import child_environment
from shared.db.migrate import (
    alembic_config,
    current_revision,
    head_revision,
    require_current,
    upgrade,
)
from shared.db.session import Database
from shared.db.tables import Base

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database; on PostgreSQL one of its own beside the tests' common one."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.db'}"
        return
    server = Database(request.getfixturevalue("postgres_url"))
    outside = server.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    outside.execute(text("CREATE DATABASE migrations"))
    yield server.engine.url.set(database="migrations").render_as_string(hide_password=False)
    outside.execute(text("DROP DATABASE migrations WITH (FORCE)"))
    outside.close()
    server.close()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.close()


def tables_of(database: Database) -> set[str]:
    return set(inspect(database.engine).get_table_names())


def test_the_migrations_make_the_tables_of_the_code(database: Database) -> None:
    upgrade(database)
    with database.reading() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    assert tables_of(database) == {*Base.metadata.tables, "alembic_version"}


def test_migrating_twice_changes_nothing(database: Database) -> None:
    upgrade(database)
    with database.transaction() as session:
        session.execute(text("INSERT INTO leaders VALUES ('x', 'y', 1, '2026-01-01 00:00:00')"))
    upgrade(database)
    require_current(database)
    with database.reading() as session:
        assert session.execute(text("SELECT owner FROM leaders")).scalar_one() == "y"


def test_several_processes_may_migrate_at_once(url: str) -> None:
    """Each has its own connection; the second one finds the work done."""
    databases = [Database(url) for _ in range(4)]
    with ThreadPoolExecutor(len(databases)) as pool:
        list(pool.map(upgrade, databases))
    require_current(databases[0])
    for database in databases:
        database.close()


def test_a_downgrade_leaves_no_table(database: Database) -> None:
    upgrade(database)
    with database.transaction() as session:
        command.downgrade(alembic_config(session.connection()), "base")
    assert tables_of(database) == {"alembic_version"}
    upgrade(database)
    require_current(database)


def test_a_database_of_another_version_is_refused(database: Database) -> None:
    with pytest.raises(StartupError, match="revision none"):
        require_current(database)
    upgrade(database)
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'from-the-future'"))
    for refuse in (upgrade, require_current):
        with pytest.raises(StartupError, match="made by a newer one"):
            refuse(database)
    with database.reading() as session:
        assert current_revision(session.connection()) == "from-the-future"


def migrate_in_a_process(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shared.db.migrate"],
        cwd=ROOT,
        env=child_environment(RYANGPT_DATABASE_URL=url),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_migrates_and_says_so(url: str, database: Database) -> None:
    done = migrate_in_a_process(url.replace("postgresql+psycopg://", "postgresql://"))
    assert done.returncode == 0
    assert f"at revision {head_revision()} (it was at none)" in done.stderr
    require_current(database)


@pytest.mark.parametrize(
    "url", ["postgresql://nobody@127.0.0.1:1/none", "mysql://a@b/c", "sqlite:////proc/no/x.db"]
)
def test_a_failure_is_one_sentence(url: str) -> None:
    done = migrate_in_a_process(url)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
