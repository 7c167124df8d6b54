"""Servers that go away or answer badly, machines that sleep, clocks that jump: F6, F9, F10, F20."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import httpx
import redis

from shared.contracts.names import FailureCode, JobState
from tests.faults.proxy import Proxy
from tests.faults.trial import Trial
from tests.support.platforms import still_running

POLL_SECONDS = 0.1


def redis_lost(trial: Trial) -> None:
    """F6: Redis is killed, emptied, and away for ten minutes, while jobs run and wait."""
    for away_seconds in (*[5.0] * (trial.scale.times - 1), 600.0):
        running, queued = _running_and_queued(trial)
        client = redis.Redis.from_url(trial.cluster.servers.redis.server.url)
        client.flushall()
        client.close()
        trial.ledger.faults["FLUSHALL"] += 1
        trial.cluster.servers.redis.kill()
        trial.ledger.faults[f"Redis away for {away_seconds:g} s"] += 1
        since = time.monotonic()
        posted = _submit_by_api(trial)
        trial.ledger.measure("seconds for a POST without Redis", time.monotonic() - since, 5.0)
        trial.wait_seconds(away_seconds)
        trial.cluster.servers.redis.start()
        trial.finish(*running, *queued, *posted)
        late = trial.submit()  # now that a worker is free for it
        since = time.monotonic()
        trial.cluster.wait_for(late[0], JobState.RUNNING, JobState.SUCCEEDED)
        trial.bounded("seconds until a job starts, Redis being back", time.monotonic() - since, 60)
        trial.finish(*late)
        jobs = [*running, *queued, *posted, *late]
        assert {trial.cluster.job(job_id).attempt for job_id in jobs} == {1}


def _running_and_queued(trial: Trial) -> tuple[list[str], list[str]]:
    running = trial.submit()
    trial.cluster.wait_for_checkpoint(running[0])
    return running, trial.submit()


def _submit_by_api(trial: Trial) -> list[str]:
    """A job as a user submits it; it is not started by hand."""
    document = trial.train_document()
    answer = httpx.post(f"{trial.url}/v1/jobs", json=document, timeout=60.0)
    assert answer.status_code == httpx.codes.CREATED, answer.text
    trial.ledger.jobs += 1
    return [str(answer.json()["id"])]


@dataclass(slots=True)
class Watcher:
    """What a user's requests meet meanwhile."""

    url: str
    statuses: set[int] = field(default_factory=set)

    def look(self) -> None:
        """One request; an answer of the kind 503 must say when to come back."""
        with suppress(httpx.TransportError):
            answer = httpx.get(f"{self.url}/v1/jobs", timeout=60.0)
            self.statuses.add(answer.status_code)
            assert answer.status_code in (200, 503), answer.text
            assert answer.status_code == 200 or "retry-after" in answer.headers

    def watch(self, seconds: float) -> None:
        """Look again and again."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.look()
            time.sleep(POLL_SECONDS)


def database_restarted(trial: Trial) -> None:
    """F9: PostgreSQL crashes, recovers, and is away for a minute; no running job notices."""
    postgres = trial.cluster.servers.postgres
    assert postgres is not None
    watcher = Watcher(trial.url)
    for away_seconds in (*[2.0] * (trial.scale.times - 1), 60.0):
        [job_id] = trial.submit()
        trial.cluster.wait_for_checkpoint(job_id)
        postgres.stop("immediate")
        watcher.watch(away_seconds * trial.scale.time_factor)
        postgres.start()
        trial.ledger.faults[f"PostgreSQL away for {away_seconds:g} s"] += 1
        trial.finish(job_id)
        assert trial.cluster.job(job_id).attempt == 1
    assert 503 in watcher.statuses


def worker_partitioned(trial: Trial) -> None:
    """F9: one worker cannot reach the database for a minute: another one takes over, once."""
    for _ in range(trial.scale.times):
        _partition_one(trial)


def _partition_one(trial: Trial) -> None:
    [job_id] = trial.submit()
    trial.cluster.wait_for_checkpoint(job_id)
    worker, _ = trial.cluster.wait_for_trainer(job_id)
    proxy = trial.cluster.servers.proxy(worker, "database")
    trial.strike(job_id, "partition", proxy.hold)
    try:
        trial.wait_until(lambda: _is_taken(trial, job_id), "the job is taken from the worker")
        trial.wait_seconds(10.0)
    finally:
        proxy.mend()
    trial.finish(job_id)


def _is_taken(trial: Trial, job_id: str) -> bool:
    row = trial.cluster.job(job_id)
    return row.attempt > 1 or row.state is not JobState.RUNNING


def store_away(trial: Trial) -> None:
    """F10: the object store is away for five minutes; training goes on, the spool stays small."""
    for away_seconds in (*[20.0] * (trial.scale.times - 1), 300.0):
        [job_id] = trial.submit()
        trial.cluster.wait_for_checkpoint(job_id)
        worker, process = trial.cluster.wait_for_trainer(job_id)
        with _all(trial, "store", f"store away for {away_seconds:g} s") as proxies:
            for proxy in proxies:
                proxy.cut()
            deadline = time.monotonic() + away_seconds * trial.scale.time_factor
            while time.monotonic() < deadline or still_running([process]):
                _measure_spool(trial, worker, job_id)
                time.sleep(POLL_SECONDS)
            assert trial.cluster.told_step(job_id) == trial.cluster.steps, (
                "it has trained to its end"
            )
            assert trial.cluster.job(job_id).state is JobState.RUNNING, "and waits to store that"
        trial.finish(job_id)
        assert trial.cluster.job(job_id).attempt == 1


def _measure_spool(trial: Trial, worker: str, job_id: str) -> None:
    spools = (trial.cluster.data_dir(worker) / "runs" / job_id).glob("t*/spool/step-*")
    trial.ledger.measure("checkpoints that wait for the store", len(list(spools)), 3)


def store_bad(trial: Trial) -> None:
    """F10: the object store resets one request in a hundred, and is slow."""
    for name, reset_share, speed in (
        ("1 % of requests reset", 0.01, 0),
        ("one request in five reset", 0.2, 0),
        ("100 KB/s", 0.0, 100_000),
    ):
        jobs = trial.submit(max(1, trial.scale.times // 3))
        with _all(trial, "store", name) as proxies:
            for proxy in proxies:
                proxy.reset_share, proxy.bytes_per_second = reset_share, speed
            trial.finish(*jobs)
        assert {trial.cluster.job(job_id).attempt for job_id in jobs} == {1}


@contextmanager
def _all(trial: Trial, server: str, name: str) -> Iterator[list[Proxy]]:
    """Every way to a server, mended at the end."""
    proxies = trial.cluster.servers.proxies_of(server)
    trial.ledger.faults[name] += 1
    try:
        yield proxies
    finally:
        for proxy in proxies:
            proxy.mend()


def disk_full(trial: Trial) -> None:
    """F10: the worker's disk is full: the job fails with the reason, and nothing stays behind."""
    worker = trial.cluster.workers[0]
    folder = trial.cluster.data_dir(worker)
    small = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f'mount -t tmpfs -o size=512k tmpfs "{folder}" && exec "$@"'
    others = trial.cluster.workers[1:]
    trial.cluster.kill(worker)
    frozen = trial.cluster.freeze(*others)
    try:
        trial.cluster.start(worker, before=[*small, mount, "sh"])
        for _ in range(trial.scale.times):
            [job_id] = trial.submit()
            row = trial.cluster.wait_for(job_id, JobState.FAILED)
            trial.ledger.faults["disk full"] += 1
            assert row.error_code == FailureCode.STORAGE_FULL, (row.error_code, row.error_message)
            assert row.error_hint
            trial.judge(job_id)
        pid = trial.cluster.processes[worker].pid
        runs = list((trial.cluster.folder / f"/proc/{pid}/root{folder}/runs").rglob("*"))
        assert runs == [], "what an attempt left behind"
    finally:
        trial.cluster.thaw(frozen)
        trial.cluster.kill(worker)
        trial.cluster.start(worker)


def machine_suspended(trial: Trial) -> None:
    """Everything but the database stands still for two minutes: nobody loses a job for it."""
    for _ in range(trial.scale.times):
        [job_id] = trial.submit()
        trial.cluster.wait_for_checkpoint(job_id)
        frozen = [trial.cluster.servers.redis.process]
        frozen[0].suspend()
        frozen += trial.cluster.freeze("api", *trial.cluster.workers)
        trial.ledger.faults["machine suspended for 120 s"] += 1
        try:
            trial.wait_seconds(120.0)
        finally:
            trial.cluster.thaw(frozen)
        trial.finish(job_id)
        assert trial.cluster.job(job_id).attempt == 1


def clock_stepped(trial: Trial) -> None:
    """F20: the machines' clocks jump by an hour, forth and back; no job is taken for dead."""
    assert trial.cluster.clock is not None
    for hours in (1, 0, -1, 0)[: max(4, trial.scale.times)]:
        [job_id] = trial.submit()
        trial.cluster.wait_for_checkpoint(job_id)
        trial.cluster.clock.write_text(str(3600.0 * hours))
        trial.ledger.faults["clock stepped by an hour"] += 1
        trial.wait_seconds(60.0)
        trial.finish(job_id)
        assert trial.cluster.job(job_id).attempt == 1
