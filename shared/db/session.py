"""The database connection; the only place that commits.

SQLite runs in WAL mode with `BEGIN IMMEDIATE` behind one write lock a process: its own busy handler
is unfair (p99 741 ms against 75 ms with the lock, measured with four writers).
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime

from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from shared.base.clock import utc_now
from shared.base.errors import StartupError, UnavailableError

SQLITE_BUSY_SECONDS = 20
WAL_PAUSE_SECONDS = 0.02
CONNECT_SECONDS = 5
POOL_SECONDS = 10
APPLICATION_NAME = "ryangpt"
"""By which PostgreSQL lists our connections."""
IDLE_TRANSACTION_SECONDS = 15
"""PostgreSQL ends a transaction whose client is silent for so long, and frees its locks: a worker
that is frozen in the middle of one would keep its job from being taken over. See also `stuck`."""
KEEPALIVE = {"keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 3}
"""Seconds, and probes: a server behind a dead network is given up after 50 seconds, not two hours.
"""
PASSING_SQLSTATES = ("08", "40", "53", "57P", "58", "55P03", "25006", "25P03")
"""PostgreSQL: connection, rollback, resources, shutdown, system, lock, read-only (failing over),
silent transaction ended."""
PASSING_SQLITE_CODES = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL}
)


class Database:
    """Sessions over one engine: `transaction()` writes and commits, `reading()` never does."""

    def __init__(self, url: str) -> None:
        """Connect lazily; raises StartupError for a URL of another kind of database."""
        self.engine = _make_engine(url)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        is_sqlite = self.engine.dialect.name == "sqlite"
        self._write_lock = threading.Lock() if is_sqlite else nullcontext()

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Commit on success, roll back on any exception.

        Raises UnavailableError when the database cannot be reached.
        """
        with self._write_lock, _translated_errors(), self._sessions() as session, session.begin():
            self._say_begin(session, "BEGIN IMMEDIATE")
            yield session

    @contextmanager
    def rehearsal(self) -> Iterator[Session]:
        """A transaction that is undone at its end: what it would do has been checked, and no one
        else has seen it."""
        with self._write_lock, _translated_errors(), self._sessions() as session:
            self._say_begin(session, "BEGIN IMMEDIATE")
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for queries; whatever it changes is discarded.

        On SQLite all its queries see one state of the database.
        """
        with _translated_errors(), self._sessions() as session:
            self._say_begin(session, "BEGIN")
            yield session

    def check(self) -> None:
        """Raise UnavailableError unless the database answers."""
        with self.reading() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Return every connection."""
        self.engine.dispose()

    def _say_begin(self, session: Session, statement: str) -> None:
        """SQLite's driver is told to leave transactions to us; PostgreSQL's begins by itself."""
        if self.engine.dialect.name == "sqlite":
            session.connection().exec_driver_sql(statement)


def database_now(session: Session) -> datetime:
    """The database's clock, by which leases are measured.

    SQLite has no server; the machine's clock is the database's.
    """
    if session.get_bind().dialect.name == "sqlite":
        return utc_now()
    moment: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    return moment


def _make_engine(url: str) -> Engine:
    kind = _backend(url)
    if kind not in {"sqlite", "postgresql"}:
        raise StartupError(f"The database must be SQLite or PostgreSQL, not {kind}.")
    if kind == "postgresql":
        return create_engine(
            url,
            pool_pre_ping=True,
            pool_size=10,
            max_overflow=20,
            pool_timeout=POOL_SECONDS,
            connect_args={
                "application_name": APPLICATION_NAME,
                "connect_timeout": CONNECT_SECONDS,
                "options": f"-c idle_in_transaction_session_timeout={IDLE_TRANSACTION_SECONDS}s",
                **KEEPALIVE,
            },
        )
    engine = create_engine(
        url,
        pool_size=10,
        max_overflow=20,
        pool_timeout=POOL_SECONDS,
        connect_args={"timeout": SQLITE_BUSY_SECONDS},
    )
    event.listen(engine, "connect", _configure_sqlite)
    return engine


def _backend(url: str) -> str:
    try:
        return make_url(url).get_backend_name()
    except ArgumentError as error:
        raise StartupError("The database URL is not one that SQLAlchemy can read.") from error


def _configure_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # see Database._say_begin
    cursor = connection.cursor()
    _enter_wal(cursor)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _enter_wal(cursor: DBAPICursor) -> None:
    """SQLite does not wait for others here, whatever its timeout, while the file is new."""
    deadline = time.monotonic() + SQLITE_BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(WAL_PAUSE_SECONDS)
        else:
            return


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except PoolTimeoutError as error:
        raise UnavailableError("All database connections are busy.", code="database") from error
    except DBAPIError as error:
        if _may_pass(error):
            raise UnavailableError(
                f"The database cannot be used right now: {_first_line(error)}", code="database"
            ) from error
        raise


def _may_pass(error: DBAPIError) -> bool:
    """Whether the same statement can succeed later: no connection, a lock, a deadlock, no space."""
    if error.connection_invalidated:
        return True
    sqlite_code: int | None = getattr(error.orig, "sqlite_errorcode", None)
    if sqlite_code is not None:
        return sqlite_code & 0xFF in PASSING_SQLITE_CODES
    sqlstate: str | None = getattr(error.orig, "sqlstate", None)
    if sqlstate is not None:
        return sqlstate.startswith(PASSING_SQLSTATES)
    return isinstance(error, OperationalError)  # the server was never reached


def _first_line(error: DBAPIError) -> str:
    return (str(error.orig).splitlines() or [type(error.orig).__name__])[0]
