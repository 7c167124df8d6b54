"""Processes that die, freeze or are told to go: F1, F2, F3, F5, F14, F18, F21."""

from __future__ import annotations

import re
import signal
import time
from datetime import timedelta
from functools import partial

import psutil

from shared.base.clock import utc_now
from shared.contracts.names import FailureCode, JobState
from shared.jobs.leader.garbage import collect_garbage
from shared.jobs.timing import LEASE_SECONDS
from tests.faults.history import result_of, unnamed_objects
from tests.faults.proxy import Tripwire
from tests.faults.trial import Trial
from tests.support.platforms import still_running

FROZEN_SECONDS = 120.0
POINTS: dict[str, tuple[re.Pattern[bytes], bool]] = {
    "before the weights": (re.compile(rb"PUT /\S+/step-\d+/model.safetensors"), False),
    "before the manifest": (re.compile(rb"PUT /\S+/step-\d+/manifest.json"), False),
    "between manifest and commit": (re.compile(rb"PUT /\S+/step-\d+/manifest.json"), True),
    "before old objects are deleted": (re.compile(rb"POST /\S+\?delete"), False),
}
"""Moments in the life of a checkpoint, as the object store sees them: the request, and whether the
worker dies right before the answer to it rather than before the request itself."""


def training_process_killed(trial: Trial) -> None:
    """F1: kill -9 of the process that trains."""
    at_once = len(trial.cluster.workers)
    trial.harvest(trial.scale.kills, "training process", trial.kill_trainer, at_once=at_once)


def worker_killed(trial: Trial) -> None:
    """F2: kill -9 of a worker and with it of all that it runs."""
    at_once = len(trial.cluster.workers)
    trial.harvest(trial.scale.kills, "worker", trial.kill_worker, at_once=at_once)


def leader_killed(trial: Trial) -> None:
    """F21: kill -9 of the process that dispatches and reaps; it holds nothing, so nothing is lost.

    A new leader reaps nobody before it has led for a whole lease: no job is taken from its worker.
    """
    jobs: list[str] = []
    for _ in range(trial.scale.times):
        jobs += trial.submit()
        trial.cluster.wait_for_checkpoint(jobs[-1])
        trial.cluster.kill("api")
        trial.ledger.faults["leader"] += 1
        trial.cluster.start("api")
    trial.finish(*jobs)
    assert {trial.cluster.job(job_id).attempt for job_id in jobs} == {1}


def worker_killed_within_a_commit(trial: Trial) -> None:
    """F3: kill -9 of a worker at named moments between upload, manifest and row."""
    jobs: list[str] = []
    for name, (pattern, on_answer) in POINTS.items():
        for _ in range(max(1, trial.scale.times // 3)):
            jobs += trial.submit()
            trial.cluster.wait_for_checkpoint(jobs[-1])
            worker, _ = trial.cluster.wait_for_trainer(jobs[-1])
            _kill_at(trial, jobs[-1], worker, name, pattern, on_answer=on_answer)
    trial.finish(*jobs)
    garbage = [key for job_id in jobs for key in unnamed_objects(trial.cluster, job_id)]
    trial.ledger.measure("objects left without a row, before they are collected", len(garbage))
    later = utc_now() + timedelta(minutes=1)  # as if the grace had gone by
    collected = collect_garbage(trial.cluster.database, trial.cluster.store, older_than=later)
    assert set(garbage) <= set(collected)
    assert not any(unnamed_objects(trial.cluster, job_id) for job_id in jobs)
    for job_id in jobs:
        result_of(trial.cluster, job_id)  # what is named is whole


def _kill_at(
    trial: Trial,
    job_id: str,
    worker: str,
    name: str,
    pattern: re.Pattern[bytes],
    *,
    on_answer: bool,
) -> None:
    process = trial.cluster.processes[worker]
    below = trial.cluster.tree(worker)[1:]
    wire = Tripwire(pattern=pattern, action=process.kill, on_answer=on_answer)

    def trip() -> None:
        trial.cluster.servers.proxy(worker, "store").tripwire = wire
        assert wire.tripped.wait(trial.cluster.patience), f"nobody came by: {name}"

    trial.strike(job_id, name, trip, happened=lambda: wire.at)
    trial.cluster.bury(worker, below)
    trial.cluster.start(worker)


def worker_frozen(trial: Trial) -> None:
    """F5: a worker and its process stand still for longer than the lease, then wake as zombies."""
    for _ in range(trial.scale.times):
        _freeze_one(trial)


def _freeze_one(trial: Trial) -> None:
    [job_id] = trial.submit()
    trial.cluster.wait_for_checkpoint(job_id)
    worker, process = trial.cluster.wait_for_trainer(job_id)
    frozen: list[psutil.Process] = []
    trial.strike(job_id, "worker frozen", lambda: frozen.extend(trial.cluster.freeze(worker)))
    try:
        trial.wait_until(lambda: _is_elsewhere(trial, job_id, worker), "another worker has the job")
        trial.wait_seconds(FROZEN_SECONDS - LEASE_SECONDS)  # about a lease has gone by
    finally:
        trial.cluster.thaw(frozen)
    since = time.monotonic()
    trial.wait_until(lambda: not still_running([process]), "the old process has ended")
    trial.bounded("seconds that a woken zombie lives", time.monotonic() - since, 11.0)
    trial.finish(job_id)


def _is_elsewhere(trial: Trial, job_id: str, lost: str) -> bool:
    row = trial.cluster.job(job_id)
    return row.attempt > 1 and any(
        job_id in trial.cluster.training(name) for name in trial.cluster.workers if name != lost
    )


def poison(trial: Trial) -> None:
    """F14: a process that dies as soon as it starts; another job must not feel it."""
    for _ in range(trial.scale.times):
        bad, other = trial.submit(2)
        since = time.monotonic()
        trial.wait_until(partial(_kill_on_sight, trial, bad), f"{bad} has failed")
        row = trial.cluster.wait_for(bad, JobState.FAILED)
        trial.bounded("seconds until a poisonous job has failed", time.monotonic() - since, 300.0)
        assert (row.error_code, row.stalls, row.attempt) == (FailureCode.CRASHED, 3, 3)
        assert "attempt 3 in a row without a new checkpoint" in str(row.error_message)
        trial.judge(bad)
        trial.finish(other)
        assert trial.cluster.job(other).attempt == 1


def _kill_on_sight(trial: Trial, job_id: str) -> bool:
    trainer = trial.cluster.trainer_of(job_id)
    if trainer is not None:
        trainer[1].kill()
        trainer[1].wait(trial.cluster.patience)
        trial.ledger.faults["training process at its start"] += 1
    return trial.cluster.job(job_id).finished_at is not None


def worker_drained(trial: Trial) -> None:
    """F18: SIGTERM: the checkpoint is stored, the job goes back, the worker exits with 0."""
    for _ in range(trial.scale.times):
        _drain_one(trial)


def _drain_one(trial: Trial) -> None:
    [job_id] = trial.submit()
    trial.cluster.wait_for_checkpoint(job_id)
    worker, _ = trial.cluster.wait_for_trainer(job_id)
    ended: list[int] = []
    since = time.monotonic()
    trial.strike(
        job_id, "SIGTERM", lambda: ended.append(trial.cluster.kill(worker, signal.SIGTERM))
    )
    trial.bounded("seconds until a drained worker has gone", time.monotonic() - since, 60.0)
    assert ended == [0]
    assert trial.cluster.job(job_id).stalls == 0
    trial.cluster.start(worker)
    trial.finish(job_id)
