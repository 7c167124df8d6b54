"""Brings the database to the schema of this code: `python -m shared.db.migrate`.

Runs once and ends; several at a time wait for each other. All or nothing: each database here takes
changes of its schema in a transaction.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, make_url, text
from sqlalchemy.exc import DBAPIError

from shared.base.errors import PlatformError, StartupError
from shared.base.logs import configure_logging
from shared.base.settings import get_settings
from shared.db.session import Database
from shared.db.stuck import take_time

logger = logging.getLogger(__name__)

MIGRATION_LOCK = 0x5279616E475054
"""PostgreSQL advisory lock of whoever migrates ("RyanGPT" in ASCII)."""


def upgrade(database: Database) -> None:
    """Bring the database to the newest revision.

    Raises StartupError when another version of this code has made it, UnavailableError when it
    cannot be reached.
    """
    with database.transaction() as session:
        connection = session.connection()
        if connection.dialect.name == "postgresql":
            take_time(session)
            session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        before = current_revision(connection)
        try:
            command.upgrade(alembic_config(connection), "head")
        except CommandError as error:
            raise _other_version(before) from error
        after = current_revision(connection)
    logger.info("The database is at revision %s (it was at %s).", after, before or "none")


def require_current(database: Database) -> None:
    """Raise StartupError unless the database has exactly the schema of this code."""
    with database.reading() as session:
        present = current_revision(session.connection())
    wanted = head_revision()
    if present == wanted:
        return
    if present is not None and present not in _known_revisions():
        raise _other_version(present)
    raise StartupError(
        f"The database is at revision {present or 'none'}, this code needs {wanted}: "
        "run `python -m shared.db.migrate` first."
    )


def current_revision(connection: Connection) -> str | None:
    """The revision of the database's schema; None when nothing has been made yet."""
    return MigrationContext.configure(connection).get_current_revision()


def head_revision() -> str | None:
    """The revision that this code needs."""
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, without a file; `connection` is in a transaction of the caller."""
    config = Config()
    scripts = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _known_revisions() -> set[str]:
    scripts = ScriptDirectory.from_config(alembic_config())
    return {script.revision for script in scripts.walk_revisions()}


def _other_version(revision: str | None) -> StartupError:
    return StartupError(
        f"The database is at revision {revision}, which this version does not know: it was made "
        "by a newer one. Use that version, or start with an empty database."
    )


def _make_folder(url: str) -> None:
    """SQLite makes the file but not the folder it lies in."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)


def main() -> int:
    """Migrate the configured database; on failure one sentence on stderr and exit code 1."""
    try:
        settings = get_settings()
        configure_logging(log_format=settings.log_format, level=settings.log_level)
        url = settings.resolved_database_url
        database = Database(url)
        _make_folder(url)
        try:
            upgrade(database)
        finally:
            database.close()
    except PlatformError as error:
        return _complain(error.message)
    except (OSError, DBAPIError) as error:
        return _complain(f"The database cannot be used: {str(error).splitlines()[0]}")
    return 0


def _complain(sentence: str) -> int:
    sys.stderr.write(f"{sentence}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
