"""The whole platform as processes of one machine: started in order, watched, stopped in order.

Knows each process's module, how it tells that it is healthy, and what must outlive what.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from ryangpt.children import POLL_SECONDS, Child, OnLine, stop_children
from ryangpt.client import Client
from ryangpt.data_folder import open_data_folder
from ryangpt.redis_server import start_redis
from ryangpt.transport import ApiError
from shared.base.errors import StartupError
from shared.base.settings import Settings, child_environment, get_settings

SERVERS = ("api", "inference")
WORKERS = ("tokenizer", "trainer")
NEEDED_MODULES = ("fastapi", "celery", "tokenizers", "torch")
START_SECONDS = 120.0
DRAIN_SECONDS = 120.0
"""A training step is finished and its checkpoint stored before a worker is killed."""
STOP_SECONDS = 40.0


class Platform:
    """Redis, migrations, API, inference and two workers. Use it from one thread."""

    def __init__(
        self, settings: Settings, *, on_line: OnLine, on_note: Callable[[str], None]
    ) -> None:
        self.settings = settings
        self._on_line = on_line
        self._on_note = on_note
        self._owned = ExitStack()
        self._children: dict[str, Child] = {}

    @property
    def url(self) -> str:
        """Address of the API on this machine."""
        return _address(self.settings.api_host, self.settings.api_port)

    @property
    def inference_url(self) -> str:
        """Address of the inference service on this machine."""
        return _address(self.settings.inference_host, self.settings.inference_port)

    def start(self) -> None:
        """Start everything and return once it is healthy.

        Raises StartupError when something is in the way, ChildEndedError when a process ends.
        The caller calls `stop` in any case.
        """
        _check_installed()
        folder = self._owned.enter_context(open_data_folder(self.settings.data_dir))
        for service in SERVERS:
            _check_door(self.settings, service)
        variables = {
            "RYANGPT_DATA_DIR": str(folder),
            "RYANGPT_API_PORT": str(self.settings.api_port),
            "RYANGPT_INFERENCE_PORT": str(self.settings.inference_port),
            "RYANGPT_INFERENCE_URL": self.settings.inference_url or self.inference_url,
            "PYTHONUNBUFFERED": "1",
            "PYTHONSAFEPATH": "1",  # a folder `services` where the user stands is not ours
        }
        if "redis_url" not in self.settings.model_fields_set:
            redis = start_redis(folder / "redis")
            self._owned.callback(redis.stop)
            variables["RYANGPT_REDIS_URL"] = redis.url
        environment = child_environment(**variables)
        self._migrate(environment)
        for name in (*SERVERS, *WORKERS):
            command = [sys.executable, "-m", f"services.{name}"]
            self._children[name] = Child(
                name, command, environment=environment, on_line=self._on_line
            )
        self._wait_until_healthy()

    def _migrate(self, environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "shared.db.migrate"]
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if done.returncode != 0:
            output = done.stderr.decode(errors="replace").strip() or "no output"
            for line in output.splitlines():
                self._on_line("migrate", line)
            raise StartupError(f"The database cannot be prepared: {output.splitlines()[-1]}")

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        token = self.settings.api_token.get_secret_value()
        waiting = {*SERVERS, *WORKERS}
        with (
            Client(self.url, token=token, timeout=5.0) as api,
            Client(self.inference_url, token=token, timeout=5.0) as inference,
        ):
            while waiting:
                self.check()
                if time.monotonic() > deadline:
                    raise StartupError(
                        f"Not healthy after {START_SECONDS:.0f} s: {', '.join(sorted(waiting))}."
                    )
                for name, client in (("api", api), ("inference", inference)):
                    if name in waiting and _is_live(client):
                        waiting.discard(name)
                if "api" not in waiting:
                    waiting -= self._present_workers(api)
                time.sleep(POLL_SECONDS)

    def _present_workers(self, client: Client) -> set[str]:
        """Names of our workers that have shown themselves; their ids carry their process id."""
        try:
            workers = [worker.id for worker in client.workers() if worker.alive]
        except ApiError:
            return set()
        return {
            name
            for name in WORKERS
            for worker in workers
            if worker.startswith(f"{name}-") and f"-{self._children[name].pid}-" in worker
        }

    @property
    def data_dir(self) -> Path:
        """The data folder."""
        return self.settings.data_dir.expanduser().absolute()

    @property
    def is_default_url(self) -> bool:
        """Whether the other commands find this API without being told its address."""
        return self.settings.api_port == get_settings().api_port

    def watch(self) -> None:
        """Run until a process ends; raises ChildEndedError then."""
        while True:
            self.check()
            time.sleep(POLL_SECONDS)

    def check(self) -> None:
        """Raise ChildEndedError if a process has ended."""
        for child in self._children.values():
            child.check()

    def stop(self, *, hurry: Callable[[], bool]) -> list[str]:
        """Let workers drain, then stop servers and Redis; return the names of processes killed.

        Once `hurry` says yes the rest is killed.
        """
        workers = [self._children[name] for name in WORKERS if name in self._children]
        servers = [self._children[name] for name in SERVERS if name in self._children]
        if workers:
            self._on_note("Stopping: running jobs write a checkpoint and go on at the next start.")
        try:
            killed = stop_children(workers, grace=DRAIN_SECONDS, hurry=hurry)
            killed += stop_children(servers, grace=STOP_SECONDS, hurry=hurry)
        finally:
            self._children.clear()
            self._owned.close()
        return killed


def _check_installed() -> None:
    missing = [name for name in NEEDED_MODULES if find_spec(name) is None]
    if missing:
        raise StartupError(
            f"Not installed: {', '.join(missing)}.",
            hint="Embedded mode needs `pip install 'ryan-gpt[embedded]'` (or `make setup`).",
        )


def _check_door(settings: Settings, service: str) -> None:
    """Raise StartupError when a service may not, or cannot, listen where it is told to."""
    host, port = getattr(settings, f"{service}_host"), getattr(settings, f"{service}_port")
    settings.refuse_open_door(host)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartupError(
                f"Port {port} on {host} cannot be used: {error.strerror}.",
                hint=f"Choose another one with --{service}_port or RYANGPT_{service.upper()}_PORT.",
            ) from error


def _address(host: str, port: int) -> str:
    """Where this machine reaches a server that listens on `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(host, host)
    return f"http://{reachable}:{port}"


def _is_live(client: Client) -> bool:
    try:
        client.http.request("GET", "/health/live")
    except ApiError:
        return False
    return True
