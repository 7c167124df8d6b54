"""The real processes of a platform, each of which a test may kill, stop and start again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from ryangpt import Client
from ryangpt.redis_server import RedisServer, start_redis
from ryangpt.transport import ApiError
from shared.base.process import start_process
from shared.base.settings import Settings
from shared.contracts.names import JobState
from shared.db.repositories import checkpoints, jobs
from shared.db.session import Database
from shared.db.tables import JobRow
from shared.storage.base import ObjectStore
from shared.storage.factory import open_store
from tests.faults.tokens import add_tokens
from tests.support.platforms import assert_gone
from tests.support.rows import submit
from tests.support.s3_servers import free_port
from tests.support.training import TINY
from tests.support.waiting import wait_until

TIME_FACTOR = 0.1
PATIENCE_SECONDS = 120.0
STEPS = 1500
SPEC: dict[str, Any] = {
    **TINY, "max_steps": STEPS, "log_interval": 5, "save_interval": 50, "eval_interval": 500,
    "keep_checkpoints": 3,
}  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Cluster:
    """Redis, API and trainer workers on one database and one store."""

    folder: Path
    settings: Settings
    """Of the processes under test, which may reach database and store through a proxy."""
    database: Database
    store: ObjectStore
    """The test's own way to both; no fault lies on it."""
    redis: RedisServer
    tokens: str = ""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _log: IO[bytes]

    def start(self, name: str) -> None:
        """Start `api` or a trainer worker; a name such as `trainer-2` is a second one."""
        service = name.partition("-")[0]
        self.processes[name] = start_process(
            [
                sys.executable,
                "-m",
                "shared.base.guard",
                sys.executable,
                "-m",
                f"services.{service}",
            ],
            environment={**os.environ, **self._variables(name)},
            output=self._log,
        )

    def _variables(self, name: str) -> dict[str, str]:
        given = self.settings.model_dump(exclude_unset=True)
        given["redis_url"] = self.redis.url
        given["s3_secret_key"] = self.settings.s3_secret_key.get_secret_value()
        given["num_threads"] = 1
        if name.startswith("trainer-"):
            given["data_dir"] = self.folder / name
            given["database_url"] = self.settings.resolved_database_url
        return {
            f"RYANGPT_{key.upper()}": str(value) for key, value in given.items() if value != ""
        } | {"OMP_NUM_THREADS": "1"}

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to one process, wait for its end and for that of all it had started."""
        process = self.processes.pop(name)
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        status = process.wait(PATIENCE_SECONDS)
        if process.stdin:
            process.stdin.close()
        assert_gone(below)
        return status

    def job_process(self, name: str = "trainer") -> psutil.Process:
        """The process that trains below a worker; waits until there is one."""
        found: list[psutil.Process] = []

        def look() -> bool:
            found[:] = [
                child
                for child in psutil.Process(self.processes[name].pid).children()
                if _trains(child)
            ]
            return bool(found)

        wait_until(look, "a process trains", seconds=PATIENCE_SECONDS)
        return found[0]

    def client(self) -> Client:
        """A client of the API, once that answers."""
        client = Client(f"http://127.0.0.1:{self.settings.api_port}")
        wait_until(lambda: _answers(client), "the API answers", seconds=PATIENCE_SECONDS)
        return client

    def submit(self, **changes: Any) -> str:
        """Queue one small training job; return its id."""
        spec = {**SPEC, "tokens": self.tokens, **changes}
        with self.database.transaction() as session:
            return submit(session, {"kind": "train", "spec": spec}).id

    def job(self, job_id: str) -> JobRow:
        """The job's row now."""
        with self.database.reading() as session:
            return jobs.get_job(session, job_id)

    def wait_for(self, job_id: str, state: JobState) -> JobRow:
        """Wait until the job is in a state; a wrong terminal state fails at once."""

        def reached() -> bool:
            row = self.job(job_id)
            assert row.state == state or row.finished_at is None, (row.state, row.error_message)
            return row.state == state

        wait_until(reached, f"{job_id} is {state}\n{self.tail()}", seconds=PATIENCE_SECONDS)
        return self.job(job_id)

    def wait_for_checkpoint(self, job_id: str, *, after: int = -1) -> int:
        """Wait for a checkpoint of a later step than `after`; return the newest one's step."""
        newest = [after]

        def committed() -> bool:
            with self.database.reading() as session:
                rows = checkpoints.list_checkpoints(session, job_id)
            newest[0] = max((row.step for row in rows), default=-1)
            return newest[0] > after

        wait_until(committed, f"a checkpoint behind {after}", seconds=PATIENCE_SECONDS)
        return newest[0]

    def tail(self) -> str:
        """The last lines that the processes wrote."""
        text = Path(self._log.name).read_text(errors="replace")
        return "\n".join(text.splitlines()[-40:])

    def stop(self) -> None:
        """End everything."""
        for name in list(self.processes):
            self.kill(name)
        self.redis.stop()
        self.database.close()


@contextmanager
def running_cluster(folder: Path, **settings: Any) -> Iterator[Cluster]:
    """API and one trainer on SQLite and folders, or on what `settings` name."""
    data = folder / "data"
    data.mkdir(parents=True)
    direct = settings.pop("direct", {})
    shared = {"data_dir": data, "time_factor": TIME_FACTOR, "api_port": free_port(), **settings}
    made = Settings(**shared)
    own = Settings(**shared | direct)
    _migrate(own)
    database = Database(own.resolved_database_url)
    with (folder / "processes.log").open("ab") as log:
        cluster = Cluster(
            folder=folder, settings=made, database=database, store=open_store(own),
            redis=start_redis(folder / "redis"), _log=log,
        )  # fmt: skip
        try:
            cluster.tokens = add_tokens(database, cluster.store, folder / "tokens")
            cluster.start("api")
            cluster.start("trainer")
            yield cluster
        finally:
            cluster.stop()


def _migrate(settings: Settings) -> None:
    variables = {
        "RYANGPT_DATA_DIR": str(settings.data_dir),
        "RYANGPT_DATABASE_URL": settings.resolved_database_url,
    }
    command = [sys.executable, "-m", "shared.db.migrate"]
    subprocess.run(command, env={**os.environ, **variables}, check=True, capture_output=True)


def _trains(process: psutil.Process) -> bool:
    try:
        return "services.trainer.run" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def _answers(client: Client) -> bool:
    try:
        client.workers()
    except (ApiError, OSError):  # not listening or not ready yet: the caller has a deadline
        return False
    return True
