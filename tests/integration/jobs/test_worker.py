"""A real worker process on a real Redis: wake-ups, lanes, drain, and what a kill leaves behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from ryangpt.redis_server import RedisServer, start_redis
from shared.base.settings import child_environment
from shared.contracts.names import JobState, Queue
from shared.db.repositories.workers import list_workers
from shared.db.tables import WorkerRow
from shared.jobs.life.lifecycle import reap_expired
from shared.jobs.queue import WakeSender, make_celery
from tests.support.job_bench import JobBench
from tests.support.programs import Script
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

PATIENCE = 60.0


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = start_redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def bench(tmp_path: Path, redis_server: RedisServer) -> Iterator[JobBench]:
    made = JobBench.create(tmp_path / "data", redis_url=redis_server.url)
    yield made
    made.database.close()


@dataclass(slots=True, kw_only=True)
class FakeWorker:
    """A worker process and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def finish(self) -> int:
        """Wait for its end by itself."""
        return self.process.wait(timeout=PATIENCE)


@pytest.fixture
def workers() -> Iterator[list[FakeWorker]]:
    """Those started; what a failed test leaves is killed."""
    started: list[FakeWorker] = []
    yield started
    for worker in started:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait()


def start_worker(
    bench: JobBench, workers: list[FakeWorker], *, time_factor: float = 0.1
) -> FakeWorker:
    settings = bench.settings
    log = settings.data_dir / f"worker-{len(workers)}.log"
    environment = child_environment(
        RYANGPT_DATA_DIR=str(settings.data_dir),
        RYANGPT_REDIS_URL=settings.redis_url.get_secret_value(),
        RYANGPT_TIME_FACTOR=str(time_factor),
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fake_worker"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    workers.append(FakeWorker(process=process, log=log))
    mark = f"-{process.pid}-"
    wait_until(
        lambda: any(mark in row.id for row in rows_of_workers(bench)),
        "a sign of life",
        seconds=PATIENCE,
    )
    return workers[-1]


def rows_of_workers(bench: JobBench) -> list[WorkerRow]:
    with bench.database.reading() as session:
        return list(list_workers(session))


def wait_for_state(bench: JobBench, job_id: str, state: JobState) -> None:
    wait_until(lambda: bench.row(job_id).state is state, f"{job_id} is {state}", seconds=PATIENCE)


def wait_for_step(bench: JobBench, job_id: str, step: int) -> None:
    wait_until(lambda: bench.row(job_id).step >= step, f"step {step}", seconds=PATIENCE)


def send_wake(bench: JobBench, queue: Queue, job_id: str) -> None:
    sender = WakeSender(make_celery(bench.settings))
    sender.send(queue, job_id)
    sender.close()


def pids_of_programs(bench: JobBench) -> set[int]:
    """Processes that act out a job of this bench."""
    needle = str(bench.settings.data_dir / "runs").encode()
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if needle in path.read_bytes():
                found.add(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_wake_up_starts_a_job_long_before_the_next_poll(
    bench: JobBench, workers: list[FakeWorker]
) -> None:
    worker = start_worker(bench, workers, time_factor=1.0)  # polls every 30 s
    wait_until(lambda: b"Connected to redis" in worker.log.read_bytes(), "Celery", seconds=PATIENCE)
    job_id = bench.add_train_job(Script(steps=2))
    send_wake(bench, Queue.TRAINER_GPU, job_id)
    wait_until(lambda: bench.row(job_id).state is not JobState.QUEUED, "a claim", seconds=20)
    wait_for_state(bench, job_id, JobState.SUCCEEDED)


def test_poll_finds_a_job_without_any_wake_up(bench: JobBench, workers: list[FakeWorker]) -> None:
    start_worker(bench, workers)
    job_id = bench.add_train_job(Script(steps=2))
    wait_for_state(bench, job_id, JobState.SUCCEEDED)
    assert bench.row(job_id).attempt == 1


def test_export_runs_while_training_occupies_the_gpu_lane(
    bench: JobBench, workers: list[FakeWorker], tmp_path: Path
) -> None:
    first = bench.add_train_job(Script(steps=1))
    start_worker(bench, workers)
    wait_for_state(bench, first, JobState.SUCCEEDED)
    gate = tmp_path / "gate"
    busy = bench.add_train_job(Script(steps=3, hold_at=2, gate=str(gate)))
    wait_for_step(bench, busy, 1)
    queued = bench.add_train_job(Script(steps=1))
    export = bench.add_export_job(bench.row(first).outputs["checkpoint"])
    wait_for_state(bench, export, JobState.SUCCEEDED)
    assert bench.row(busy).state is JobState.RUNNING
    assert bench.row(queued).state is JobState.QUEUED
    key = f"jobs/{export}/t1/export/model.safetensors"
    assert bench.store.get_bytes(key) == b"weights of step 1"
    gate.touch()
    wait_for_state(bench, queued, JobState.SUCCEEDED)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signal_drains_without_a_stall(
    bench: JobBench, workers: list[FakeWorker], tmp_path: Path, number: signal.Signals
) -> None:
    gate = tmp_path / "gate"
    worker = start_worker(bench, workers)
    job_id = bench.add_train_job(Script(steps=9, save_every=100, hold_at=4, gate=str(gate)))
    data_id = bench.add_ingest_job(Script(hold_at=2, gate=str(gate)))
    wait_for_step(bench, job_id, 3)
    wait_for_step(bench, data_id, 1)
    worker.process.send_signal(number)
    assert worker.finish() == 0
    row, data = bench.row(job_id), bench.row(data_id)
    assert (row.state, row.stalls) == (JobState.QUEUED, 0)
    assert (data.state, data.stalls) == (JobState.QUEUED, 0)
    assert [item.step for item in bench.checkpoints(job_id)] == [4]
    assert rows_of_workers(bench) == []
    assert pids_of_programs(bench) == set()
    assert bench.leftovers() == []
    gate.touch()
    start_worker(bench, workers)
    wait_for_state(bench, job_id, JobState.SUCCEEDED)
    assert bench.metric_steps(job_id)[-2:] == [(2, 8), (2, 9)]


def test_second_signal_does_not_wait_for_a_process_that_does_not_obey(
    bench: JobBench, workers: list[FakeWorker], tmp_path: Path
) -> None:
    script = Script(steps=9, hold_at=2, gate=str(tmp_path / "gate"), ignore_stop=True)
    worker = start_worker(bench, workers, time_factor=1.0)  # a grace of 90 s
    job_id = bench.add_train_job(script)
    send_wake(bench, Queue.TRAINER_GPU, job_id)
    wait_for_step(bench, job_id, 1)
    worker.process.send_signal(signal.SIGINT)
    wait_until(lambda: b"drains" in worker.log.read_bytes(), "the drain")
    worker.process.send_signal(signal.SIGINT)
    assert worker.finish() == 0
    row = bench.row(job_id)
    assert (row.state, row.stalls) == (JobState.QUEUED, 0)
    assert pids_of_programs(bench) == set()


def test_killed_worker_leaves_no_process_and_its_job_is_taken_up(
    bench: JobBench, workers: list[FakeWorker], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    worker = start_worker(bench, workers)
    job_id = bench.add_train_job(Script(steps=5, hold_at=3, gate=str(gate)))
    wait_until(lambda: len(bench.checkpoints(job_id)) == 2, "two checkpoints", seconds=PATIENCE)
    assert len(pids_of_programs(bench)) == 1
    worker.process.kill()
    worker.process.wait()
    wait_until(lambda: pids_of_programs(bench) == set(), "the end of the process", seconds=2)
    with bench.database.transaction() as session:
        expires_at = bench.row(job_id).lease_expires_at
        assert expires_at is not None
        assert reap_expired(session, expires_at.replace(year=9998)) == [job_id]
    gate.touch()
    start_worker(bench, workers)
    wait_for_state(bench, job_id, JobState.SUCCEEDED)
    assert bench.metric_steps(job_id)[-3:] == [(2, 3), (2, 4), (2, 5)]


def test_redis_outage_neither_ends_the_worker_nor_its_jobs(
    bench: JobBench, workers: list[FakeWorker], tmp_path: Path
) -> None:
    server = start_redis(tmp_path / "redis")
    bench.settings = bench.settings.model_copy(update={"redis_url": SecretStr(server.url)})
    gate = tmp_path / "gate"
    worker = start_worker(bench, workers)
    job_id = bench.add_train_job(Script(steps=3, hold_at=2, gate=str(gate)))
    wait_for_step(bench, job_id, 1)
    server.process.kill()
    server.stop()
    gate.touch()
    wait_for_state(bench, job_id, JobState.SUCCEEDED)
    without_redis = bench.add_train_job(Script(steps=1))
    wait_for_state(bench, without_redis, JobState.SUCCEEDED)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.finish() == 0
