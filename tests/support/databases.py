"""Databases with all tables and no rows, and a client that vanishes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import text

from shared.db.migrate import upgrade
from shared.db.session import APPLICATION_NAME, Database
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


@contextmanager
def cut_off_within(
    database: Database, statement: str, *, application_name: str = APPLICATION_NAME
) -> Iterator[None]:
    """A client of PostgreSQL that has run `statement` and is cut off before its request ends."""
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    options = "-c idle_in_transaction_session_timeout=100ms"
    client = psycopg.connect(
        url, application_name=application_name, options=options, autocommit=True
    )
    with closing(client):
        client.execute("BEGIN")
        server = client.pgconn
        server.enter_pipeline_mode()
        server.send_query_params(statement.encode(), None)
        server.send_flush_request()
        server.flush()
        while server.is_busy():
            server.consume_input()  # until it has its locks
        yield
