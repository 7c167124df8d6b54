"""What a platform under fault stands on: database, object store and Redis, each behind proxies."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from ryangpt.redis_server import RedisServer, find_redis_server, start_redis
from shared.base.process import start_process
from shared.base.settings import Settings
from tests.faults.proxy import Proxy
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.s3_servers import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, rclone_server


class Redis:
    """A Redis server that keeps port, password and append-only file over a restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.server: RedisServer = start_redis(folder)

    @property
    def process(self) -> psutil.Process:
        """The server's process."""
        return psutil.Process(self.server.process.pid)

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        self.server.process.kill()
        self.server.process.wait()
        if self.server.process.stdin:
            self.server.process.stdin.close()

    def start(self) -> None:
        """Start it again where it was."""
        command = [str(find_redis_server()), str(self._folder / "redis.conf")]
        with (self._folder / "redis.log").open("ab") as log:
            process = start_process(
                [sys.executable, "-m", "shared.base.guard", *command],
                environment=os.environ,
                output=log,
            )
        self.server = replace(self.server, process=process)

    def stop(self) -> None:
        """End it for good."""
        if self.server.process.returncode is None:
            self.kill()


@dataclass(slots=True, kw_only=True)
class Servers:
    """The servers of one platform, and each process's own way to each of them."""

    redis: Redis
    postgres: PostgresServer | None = None
    s3: S3Server | None = None
    _proxies: dict[tuple[str, str], Proxy] = field(default_factory=dict)

    @property
    def are_shared(self) -> bool:
        """Whether there are a database and an object store for several machines."""
        return self.postgres is not None

    def direct_settings(self, data_dir: Path) -> Settings:
        """The test's own way to database and store, which no fault touches."""
        values: dict[str, Any] = {"data_dir": data_dir, "redis_url": self.redis.server.url}
        if self.postgres is not None and self.s3 is not None:
            values |= {
                "database_url": self.postgres.url, "object_store": "s3",
                "s3_endpoint": self.s3.endpoint, "s3_bucket": BUCKET,
                "s3_access_key": ACCESS_KEY, "s3_secret_key": SECRET_KEY,
            }  # fmt: skip
        return Settings(**values)

    def variables(self, process: str) -> dict[str, str]:
        """Settings by which a process reaches the servers through its own proxies."""
        redis_port = self.proxy(process, "redis").port
        url = self.redis.server.url.replace(f":{self.redis.server.port}/", f":{redis_port}/")
        values = {"redis_url": url}
        if self.postgres is not None:
            port = self.proxy(process, "database").port
            values["database_url"] = self.postgres.url.replace(f":{self.postgres.port}", f":{port}")
        if self.s3 is not None:
            values |= {
                "object_store": "s3", "s3_bucket": BUCKET, "s3_access_key": ACCESS_KEY,
                "s3_secret_key": SECRET_KEY,
                "s3_endpoint": f"127.0.0.1:{self.proxy(process, 'store').port}",
            }  # fmt: skip
        return values

    def proxy(self, process: str, server: str) -> Proxy:
        """The proxy between a process of the platform and `database`, `store` or `redis`."""
        if (process, server) not in self._proxies:
            self._proxies[process, server] = Proxy(self._port(server))
        return self._proxies[process, server]

    def proxies_of(self, server: str) -> list[Proxy]:
        """Every process's proxy to one server."""
        return [proxy for (_, name), proxy in self._proxies.items() if name == server]

    def heal(self) -> None:
        """Every server runs and can be reached."""
        for proxy in self._proxies.values():
            proxy.tripwire = None
            proxy.mend()
        if self.redis.server.process.returncode is not None:
            self.redis.start()
        if self.postgres is not None and not self.postgres.is_running:
            self.postgres.start()

    def close(self) -> None:
        """End Redis and the proxies."""
        for proxy in self._proxies.values():
            proxy.close()
        self.redis.stop()

    def _port(self, server: str) -> int:
        if server == "database":
            assert self.postgres is not None
            return self.postgres.port
        if server == "store":
            assert self.s3 is not None
            return int(self.s3.endpoint.rpartition(":")[2])
        return self.redis.server.port


@contextmanager
def running_servers(folder: Path, *, shared: bool) -> Iterator[Servers]:
    """Redis, and with `shared` PostgreSQL and S3; else SQLite and folders need no server.

    Raises CannotStartError without a usable PostgreSQL.
    """
    if not shared:
        servers = Servers(redis=Redis(folder / "redis"))
        try:
            yield servers
        finally:
            servers.close()
        return
    with postgres_server() as postgres, rclone_server(folder / "s3") as s3:
        servers = Servers(redis=Redis(folder / "redis"), postgres=postgres, s3=s3)
        try:
            yield servers
        finally:
            servers.close()
