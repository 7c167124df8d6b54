"""The API as a process of its own, as a user starts it, on a SQLite file and without a broker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from shared.base.settings import child_environment
from tests.support.databases import create_sqlite
from tests.support.s3_servers import free_port
from tests.support.waiting import wait_until

API_TOKEN = "a-token-for-tests-only"
HEADERS = {"Authorization": f"Bearer {API_TOKEN}"}
NO_REDIS = "redis://127.0.0.1:1/0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServer:
    """A running API."""

    process: subprocess.Popen[bytes]
    port: int
    data_dir: Path
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.data_dir / 'ryangpt.db'}"


def api_environment(data_dir: Path, port: int, **variables: str) -> dict[str, str]:
    """The environment of an API with its data in `data_dir`."""
    settings = {
        "RYANGPT_DATA_DIR": str(data_dir),
        "RYANGPT_DATABASE_URL": "",
        "RYANGPT_OBJECT_STORE": "local",
        "RYANGPT_REDIS_URL": NO_REDIS,
        "RYANGPT_API_PORT": str(port),
        "RYANGPT_API_TOKEN": API_TOKEN,
    }
    return child_environment(**{**settings, **variables})


@contextmanager
def running_api(
    data_dir: Path, *, port: int | None = None, **variables: str
) -> Iterator[ApiServer]:
    """Migrate (once), start and wait until it is ready; killed at the end if it still runs."""
    if not (data_dir / "ryangpt.db").exists():
        create_sqlite(data_dir / "ryangpt.db")
    port = port or free_port()
    log = data_dir / "api.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.api"],
            env=api_environment(data_dir, port, **variables),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = ApiServer(process=process, port=port, data_dir=data_dir, log=log)
    try:
        wait_until(lambda: _is_ready(server), "the API is ready", seconds=60.0)
        yield server
    finally:
        process.kill()
        process.wait()


def _is_ready(server: ApiServer) -> bool:
    assert server.process.poll() is None, f"the API ended:\n{server.log.read_text()}"
    try:
        return httpx.get(f"{server.url}/health/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
