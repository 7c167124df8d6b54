"""Ends what a client that vanished in the middle of a transaction has left in PostgreSQL.

Its locks would keep its jobs from being taken over. The server's own timeout for silent
transactions does not see a client that was cut off between the messages of one statement (psycopg
sends several rows as a pipeline), and PostgreSQL has a timeout for whole transactions only from
version 17 on. SQLite has no clients: its locks end with the process that holds them.
"""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

from shared.db.session import APPLICATION_NAME

TRANSACTION_SECONDS = 30.0
"""Ours last milliseconds, and seconds on a busy machine; who loses one that was alive tries again.
"""
END_OLDER = text("""
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND application_name = :name
      AND pid <> pg_backend_pid()
      AND xact_start < clock_timestamp() - make_interval(secs => :seconds)
""")


def end_stuck_transactions(session: Session, *, seconds: float = TRANSACTION_SECONDS) -> int:
    """End our connections that have been in one transaction for so long; return their number.

    Migrations and other people's programs (a backup, psql) may take the time they need.
    """
    if session.get_bind().dialect.name == "sqlite":
        return 0
    ended = session.scalars(END_OLDER, {"name": APPLICATION_NAME, "seconds": seconds})
    return sum(ended)


def take_time(session: Session) -> None:
    """Let this transaction on PostgreSQL last as long as it needs."""
    session.execute(text(f"SET LOCAL application_name = '{APPLICATION_NAME} migration'"))
