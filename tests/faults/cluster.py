"""The real processes of a platform, each of which a test may kill, freeze, cut off and start."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from ryangpt import Client
from ryangpt.transport import ApiError
from shared.base.process import start_process
from shared.base.settings import Settings
from shared.contracts.names import JobState
from shared.db.repositories import checkpoints, jobs
from shared.db.session import Database
from shared.db.tables import JobRow
from shared.jobs.life.requests import request_cancel
from shared.storage.base import ObjectStore
from shared.storage.factory import open_store
from tests.faults.servers import Servers, running_servers
from tests.faults.tokens import add_tokens
from tests.support.platforms import assert_gone
from tests.support.rows import submit
from tests.support.s3_servers import free_port
from tests.support.training import TINY, tiny_tokens
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 180.0
INTERVALS = 8
"""Checkpoints that a job writes."""
LINES_IN_INTERVAL = 12
"""Points of its curve between two of them."""
RUN_PATH = re.compile(r"/runs/(job_\w+)/t(\d+)/")


@dataclass(slots=True, kw_only=True)
class Cluster:
    """API and trainer workers on some servers. Use it from the thread that made it: what it starts
    dies with that thread."""

    folder: Path
    servers: Servers
    time_factor: float
    database: Database
    store: ObjectStore
    """The test's own way to both; no fault lies on it."""
    workers: list[str]
    """Names of the trainer workers, `trainer-1` and so on."""
    interval: int
    """Steps between two checkpoints of a job."""
    api_port: int = field(default_factory=free_port)
    patience: float = PATIENCE_SECONDS
    """Seconds to wait for what must come."""
    clock: Path | None = None
    """Where the processes read by how many seconds their clock is wrong."""
    tokens: str = ""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _log: IO[bytes]

    # Processes

    def start(self, name: str, *, before: Sequence[str] = ()) -> None:
        """Start `api` or one of the workers; `before` is a command that executes its arguments."""
        module = f"services.{name.partition('-')[0]}"
        python = [sys.executable, "-m"]
        shifted = ["tests.faults.shifted_clock", str(self.clock), module]
        program = [*python, *(shifted if self.clock else [module])]
        self.processes[name] = start_process(
            [*before, *python, "shared.base.guard", *program],
            environment={**os.environ, **self._variables(name)},
            output=self._log,
            cwd=ROOT,
        )

    def data_dir(self, name: str) -> Path:
        """A process's data folder: with servers to share each worker has its own machine."""
        is_apart = self.servers.are_shared and name != "api"
        return self.folder / (name if is_apart else "data")

    def _variables(self, name: str) -> dict[str, str]:
        variables = {
            "data_dir": str(self.data_dir(name)),
            "time_factor": str(self.time_factor),
            "api_port": str(self.api_port),
            "num_threads": "1",
            **self.servers.variables(name),
        }
        named = {f"RYANGPT_{key.upper()}": value for key, value in variables.items()}
        return named | {"OMP_NUM_THREADS": "1"}

    def settings(self, name: str = "api") -> Settings:
        """The settings under which a process runs."""
        values: dict[str, Any] = {"data_dir": self.data_dir(name), "time_factor": self.time_factor}
        return Settings(**values | self.servers.variables(name))

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to one process, wait for its end and for that of all it had started."""
        process = self.processes[name]
        below = self.tree(name)[1:]
        process.send_signal(number)
        return self.bury(name, below)

    def bury(self, name: str, below: list[psutil.Process]) -> int:
        """Wait for the end of a process that has been told to end, and of those `below` it."""
        process = self.processes.pop(name)
        status = process.wait(self.patience)
        if process.stdin:
            process.stdin.close()
        assert_gone(below)
        return status

    def tree(self, name: str) -> list[psutil.Process]:
        """A process and all that it has started, top down."""
        own = psutil.Process(self.processes[name].pid)
        return [own, *own.children(recursive=True)]

    def freeze(self, *names: str) -> list[psutil.Process]:
        """Stop processes and all below them as a suspended machine does; return them for `thaw`."""
        stopped = [process for name in names for process in self.tree(name)]
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        return stopped

    @staticmethod
    def thaw(stopped: list[psutil.Process]) -> None:
        """Let frozen processes go on."""
        for process in reversed(stopped):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def training(self, name: str) -> dict[str, psutil.Process]:
        """The processes that train below a worker, by job."""
        found = {}
        process = self.processes.get(name)
        for child in psutil.Process(process.pid).children() if process else []:
            with suppress(psutil.NoSuchProcess):
                run = RUN_PATH.search(" ".join(child.cmdline()))
                if run and child.status() != psutil.STATUS_ZOMBIE:
                    found[run[1]] = child
        return found

    def trainer_of(self, job_id: str) -> tuple[str, psutil.Process] | None:
        """The worker that has the job, and the process that trains."""
        for name in self.workers:
            process = self.training(name).get(job_id)
            if process is not None:
                return name, process
        return None

    def wait_for_trainer(self, job_id: str) -> tuple[str, psutil.Process]:
        """The same, once there is one."""
        found: list[tuple[str, psutil.Process]] = []

        def look() -> bool:
            found[:] = [trainer] if (trainer := self.trainer_of(job_id)) else []
            return bool(found)

        wait_until(look, f"{job_id} trains", seconds=self.patience, poll=0.1)
        return found[0]

    def told_step(self, job_id: str) -> int:
        """The last step that the job's newest process has told its worker; 0 before the first."""
        runs = [path for name in {"api", *self.workers} for path in self._run_files(name, job_id)]
        if not runs:
            return 0
        newest = max(runs, key=lambda path: int(path.parent.name.removeprefix("t")))
        with suppress(FileNotFoundError):
            lines = newest.read_text().splitlines()
            steps = [step for line in lines if (step := _step_of(line)) is not None]
            return max(steps, default=0)
        return 0

    def _run_files(self, name: str, job_id: str) -> list[Path]:
        return list((self.data_dir(name) / "runs" / job_id).glob("t*/events.jsonl"))

    # Jobs

    def client(self) -> Client:
        """A client of the API, once that answers."""
        client = Client(f"http://127.0.0.1:{self.api_port}")
        wait_until(lambda: _answers(client), "the API answers", seconds=self.patience)
        return client

    @property
    def steps(self) -> int:
        """Steps of a job."""
        return INTERVALS * self.interval

    def spec(self, **changes: Any) -> dict[str, Any]:
        """What a job asks for."""
        ours = {
            "tokens": self.tokens, "max_steps": self.steps, "save_interval": self.interval,
            "log_interval": self.interval // LINES_IN_INTERVAL,
            "eval_interval": self.steps // 2, "keep_checkpoints": 3,
        }  # fmt: skip
        return {**TINY, **ours, **changes}

    def submit(self, **changes: Any) -> str:
        """Queue one small training job; return its id."""
        return self.submit_spec(self.spec(**changes))

    def submit_spec(self, spec: dict[str, Any]) -> str:
        """Queue a training job; return its id."""
        with self.database.transaction() as session:
            return submit(session, {"kind": "train", "spec": spec}).id

    def job(self, job_id: str) -> JobRow:
        """The job's row now."""
        with self.database.reading() as session:
            return jobs.get_job(session, job_id)

    def wait_for(self, job_id: str, *states: JobState) -> JobRow:
        """Wait until the job is in one of `states`; another terminal state fails at once."""

        def reached() -> bool:
            row = self.job(job_id)
            assert row.state in states or row.finished_at is None, (row.state, row.error_message)
            return row.state in states

        what = f"{job_id} is {' or '.join(states)}\n{self.tail()}"
        wait_until(reached, what, seconds=self.patience, poll=0.1)
        return self.job(job_id)

    def newest_checkpoint(self, job_id: str) -> int:
        """The step of the newest committed checkpoint; -1 before the first."""
        with self.database.reading() as session:
            rows = checkpoints.list_checkpoints(session, job_id)
        return max((row.step for row in rows), default=-1)

    def wait_for_checkpoint(self, job_id: str, *, after: int = -1) -> int:
        """Wait for a checkpoint of a later step than `after`; return the newest one's step."""

        def is_there() -> bool:
            row = self.job(job_id)
            assert row.finished_at is None, (row.state, row.error_message)
            return self.newest_checkpoint(job_id) > after

        what = f"{job_id} has a checkpoint behind step {after}"
        wait_until(is_there, what, seconds=self.patience, poll=0.05)
        return self.newest_checkpoint(job_id)

    def heal(self) -> None:
        """Undo what a scenario that was cut short has left: everything runs and no job is open."""
        self.servers.heal()
        if self.clock is not None:
            self.clock.write_text("0")
        for name in list(self.processes):
            self.thaw(self.tree(name))
            self.kill(name)
        with self.database.transaction() as session:
            for row in jobs.list_jobs(session, limit=1000):
                if row.finished_at is None:
                    request_cancel(session, row.id)
        for name in ("api", *self.workers):
            self.start(name)

    def tail(self) -> str:
        """The last lines that the processes wrote."""
        text = Path(self._log.name).read_text(errors="replace")
        return "\n".join(text.splitlines()[-40:])

    def stop(self) -> None:
        """End everything."""
        for name in list(self.processes):
            self.thaw(self.tree(name))
            self.kill(name)
        self.database.close()


@contextmanager
def running_cluster(
    folder: Path,
    *,
    shared: bool = False,
    num_workers: int,
    time_factor: float,
    interval: int,
    clock: Path | None = None,
) -> Iterator[Cluster]:
    """API and workers on SQLite and folders, or with `shared` on PostgreSQL and S3.

    Raises CannotStartError without a usable PostgreSQL.
    """
    data = folder / "data"
    data.mkdir(parents=True)
    with running_servers(folder, shared=shared) as servers, (folder / "log").open("ab") as log:
        direct = servers.direct_settings(data)
        _migrate(direct)
        cluster = Cluster(
            folder=folder,
            servers=servers,
            time_factor=time_factor,
            database=Database(direct.resolved_database_url),
            store=open_store(direct),
            interval=interval,
            workers=[f"trainer-{number}" for number in range(1, num_workers + 1)],
            clock=clock,
            _log=log,
        )
        try:
            tokens = tiny_tokens(folder / "tokens")
            cluster.tokens = add_tokens(cluster.database, cluster.store, tokens)
            for name in ("api", *cluster.workers):
                cluster.start(name)
            yield cluster
        finally:
            cluster.stop()


def _migrate(settings: Settings) -> None:
    variables = {
        "RYANGPT_DATA_DIR": str(settings.data_dir),
        "RYANGPT_DATABASE_URL": settings.resolved_database_url,
    }
    command = [sys.executable, "-m", "shared.db.migrate"]
    environment = {**os.environ, **variables}
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)


def _step_of(line: str) -> int | None:
    try:
        step = json.loads(line).get("step")
    except json.JSONDecodeError:  # the process died within the line
        return None
    return step if isinstance(step, int) else None


def _answers(client: Client) -> bool:
    try:
        client.workers()
    except (ApiError, OSError):  # not listening or not ready yet: the caller has a deadline
        return False
    return True
