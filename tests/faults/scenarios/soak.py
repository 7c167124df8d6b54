"""F29: jobs run without a pause while something random breaks every twenty seconds."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis

from shared.contracts.names import JobState, Queue
from shared.jobs.queue import WakeSender, make_celery
from tests.faults.proxy import Proxy
from tests.faults.scenarios.users import try_to_pause
from tests.faults.trial import Trial

FAULT_SECONDS = 20.0
OUTAGE_SECONDS = 10.0
JOBS_AT_ONCE = 4
MAX_STALLS_STRUCK = 1
"""Three stalls in a row rightly fail a job; who has had two already is spared."""


def soak(trial: Trial) -> None:
    """One random fault every twenty seconds; every job still ends as it must."""
    trial.among_others = True
    deadline = time.monotonic() + trial.scale.soak_seconds
    open_jobs = trial.submit(JOBS_AT_ONCE)
    ended: list[str] = []
    while time.monotonic() < deadline:
        next_fault = time.monotonic() + FAULT_SECONDS * trial.scale.time_factor
        random.choice(FAULTS)(trial, open_jobs)
        while time.monotonic() < next_fault:
            for job_id in list(open_jobs):
                if trial.cluster.job(job_id).finished_at is not None:
                    open_jobs.remove(job_id)
                    ended.append(job_id)
                    open_jobs += trial.submit()
            time.sleep(0.5)
    trial.finish(*ended, *open_jobs)


def _strike_one(
    trial: Trial, jobs: list[str], kind: str, action: Callable[[str, str], object]
) -> None:
    running = [
        job_id
        for job_id in jobs
        if trial.cluster.trainer_of(job_id) is not None
        and trial.cluster.job(job_id).stalls <= MAX_STALLS_STRUCK
    ]
    if running:
        job_id = random.choice(running)
        trainer = trial.cluster.trainer_of(job_id)
        if trainer is not None:
            trial.strike(job_id, kind, lambda: action(trainer[0], job_id))


def _kill_process(trial: Trial, jobs: list[str]) -> None:
    _strike_one(trial, jobs, "training process", trial.kill_trainer)


def _kill_worker(trial: Trial, jobs: list[str]) -> None:
    _strike_one(trial, jobs, "worker", trial.kill_worker)


def _drain_worker(trial: Trial, jobs: list[str]) -> None:
    def drain(worker: str, _job_id: str) -> None:
        assert trial.cluster.kill(worker, signal.SIGTERM) == 0
        trial.cluster.start(worker)

    _strike_one(trial, jobs, "SIGTERM", drain)


def _kill_api(trial: Trial, _jobs: list[str]) -> None:
    trial.cluster.kill("api")
    trial.ledger.faults["API"] += 1
    trial.cluster.start("api")


def _kill_redis(trial: Trial, _jobs: list[str]) -> None:
    trial.cluster.servers.redis.kill()
    trial.ledger.faults["Redis"] += 1
    trial.wait_seconds(OUTAGE_SECONDS)
    trial.cluster.servers.redis.start()


def _empty_redis(trial: Trial, _jobs: list[str]) -> None:
    with redis.Redis.from_url(trial.cluster.servers.redis.server.url) as client:
        client.flushall()
    trial.ledger.faults["FLUSHALL"] += 1


def _crash_database(trial: Trial, _jobs: list[str]) -> None:
    postgres = trial.cluster.servers.postgres
    assert postgres is not None
    postgres.stop("immediate")
    trial.ledger.faults["PostgreSQL"] += 1
    trial.wait_seconds(OUTAGE_SECONDS / 5)
    postgres.start()


@contextmanager
def _outage(trial: Trial, server: str, kind: str) -> Iterator[list[Proxy]]:
    proxies = trial.cluster.servers.proxies_of(server)
    trial.ledger.faults[f"{server} {kind}"] += 1
    try:
        yield proxies
        trial.wait_seconds(OUTAGE_SECONDS)
    finally:
        for proxy in proxies:
            proxy.mend()


def _cut(trial: Trial, _jobs: list[str]) -> None:
    server = random.choice(["database", "store", "redis"])
    with _outage(trial, server, "cut off") as proxies:
        for proxy in proxies:
            proxy.cut()


def _hold(trial: Trial, _jobs: list[str]) -> None:
    server = random.choice(["database", "store", "redis"])
    with _outage(trial, server, "silent for one worker") as proxies:
        random.choice(proxies).hold()


def _slow(trial: Trial, _jobs: list[str]) -> None:
    server = random.choice(["database", "store", "redis"])
    with _outage(trial, server, "half a second slower") as proxies:
        for proxy in proxies:
            proxy.latency = 0.5


def _reset(trial: Trial, _jobs: list[str]) -> None:
    server = random.choice(["database", "store", "redis"])
    with _outage(trial, server, "resets connections") as proxies:
        for proxy in proxies:
            proxy.reset()
            proxy.reset_share = 0.02


def _freeze_worker(trial: Trial, _jobs: list[str]) -> None:
    frozen = trial.cluster.freeze(random.choice(trial.cluster.workers))
    trial.ledger.faults["worker frozen"] += 1
    try:
        trial.wait_seconds(OUTAGE_SECONDS)
    finally:
        trial.cluster.thaw(frozen)


def _pause(trial: Trial, jobs: list[str]) -> None:
    running = [job_id for job_id in jobs if trial.cluster.job(job_id).state is JobState.RUNNING]
    if not running:
        return
    job_id = random.choice(running)
    if try_to_pause(trial, job_id):
        trial.client.resume(job_id)
        trial.ledger.faults["pause and resume"] += 1


def _deliver_again(trial: Trial, jobs: list[str]) -> None:
    sender = WakeSender(make_celery(trial.cluster.settings()))
    for job_id in jobs * 5:
        sender.send(Queue.TRAINER_GPU, job_id)
    sender.close()
    trial.ledger.faults["wake-up that nobody asked for"] += 5 * len(jobs)


FAULTS: list[Callable[[Trial, list[str]], None]] = [
    _kill_process, _kill_worker, _drain_worker, _kill_api, _kill_redis, _empty_redis,
    _crash_database, _cut, _hold, _slow, _reset, _freeze_worker, _pause, _deliver_again,
]  # fmt: skip
