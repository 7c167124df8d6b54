"""Databases with all tables and no rows."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import text

from shared.db.migrate import upgrade
from shared.db.session import Database
from shared.db.tables import Base


def create_sqlite(path: Path) -> Path:
    """Migrate a new SQLite file and close it."""
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    database.close()
    return path


def empty_all_tables(database: Database) -> None:
    """Remove every row of a PostgreSQL database."""
    names = ", ".join(Base.metadata.tables)
    with database.transaction() as session:
        session.execute(text(f"TRUNCATE {names} CASCADE"))
