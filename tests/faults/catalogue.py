"""Every class of faults, and the platforms on which `make chaos` injects them side by side."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from shared.base.clock import utc_now
from shared.base.version import code_version
from shared.contracts.names import JobState
from tests.faults.cluster import Cluster
from tests.faults.history import Result, check_history, result_of
from tests.faults.ledger import Ledger
from tests.faults.scenarios import deaths, outages, saves, soak, users
from tests.faults.served import Reader
from tests.faults.trial import Scale, Trial

SHORT = Scale(time_factor=0.1, interval=60, kills=3, times=3, races=30, soak_seconds=0.0)
QUICK = Scale(time_factor=0.1, interval=60, kills=20, times=3, races=200, soak_seconds=180.0)
FULL = Scale(time_factor=1.0, interval=300, kills=100, times=3, races=1000, soak_seconds=1800.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One class of faults."""

    code: str
    title: str
    run: Callable[[Trial], None]

    def ledger(self, platform: str) -> Ledger:
        """An empty one, for what happens on a platform of this name."""
        return Ledger(code=self.code, title=f"{self.title} ({platform})")


def _scenario(code: str, title: str, run: Callable[[Trial], None]) -> Scenario:
    return Scenario(code=code, title=title, run=run)


PROCESS_KILLED = _scenario("F1", "kill -9 of the training process", deaths.training_process_killed)
WORKER_KILLED = _scenario("F2", "kill -9 of a worker", deaths.worker_killed)
KILLED_IN_COMMIT = _scenario(
    "F3", "kill -9 within a checkpoint's commit", deaths.worker_killed_within_a_commit
)
WORKER_FROZEN = _scenario("F5", "worker frozen for 120 s, then awake", deaths.worker_frozen)
REDIS_LOST = _scenario("F6", "Redis killed, emptied, away for 10 min", outages.redis_lost)
DATABASE_RESTARTED = _scenario(
    "F9", "PostgreSQL crashes; away for 60 s", outages.database_restarted
)
PARTITIONED = _scenario("F9b", "one worker cut off the database", outages.worker_partitioned)
STORE_AWAY = _scenario("F10", "object store away for 5 min", outages.store_away)
STORE_BAD = _scenario("F10b", "object store resets or is slow", outages.store_bad)
DISK_FULL = _scenario("F10c", "the worker's disk is full", outages.disk_full)
DAMAGED = _scenario("F11", "a bit flips in a stored checkpoint", users.checkpoint_damaged)
DELIVERED_AGAIN = _scenario("F12", "wake-ups again and out of order", users.delivered_again)
POISON = _scenario("F14", "a job that dies at once", deaths.poison)
CANCELLED = _scenario("F15", "cancelled at any moment", users.cancelled_at_any_moment)
RACES = _scenario("F16", "cancel races completion", users.cancel_races_completion)
PAUSED = _scenario("F17", "paused and resumed", users.paused_and_resumed)
DRAINED = _scenario("F18", "worker told to go (SIGTERM)", deaths.worker_drained)
CLOCK = _scenario("F20", "clocks jump by an hour", outages.clock_stepped)
LEADER_KILLED = _scenario("F21", "kill -9 of the leader", deaths.leader_killed)
AGAIN = _scenario("F27", "one request from 50 threads", users.submitted_again)
SUSPENDED = _scenario("F30", "machine suspended for 120 s", outages.machine_suspended)
SAVED = _scenario("save", "checkpoints of the 12.5M model", saves.reference_saved)
SOAK = _scenario("F29", "random faults every 20 s", soak.soak)


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """A platform and what happens to it, in order."""

    name: str
    shared: bool
    """On PostgreSQL and S3 with a machine for each worker; else one machine, SQLite, folders."""
    num_workers: int
    scenarios: tuple[Scenario, ...]
    has_clock: bool = False


PLATFORMS = (
    Platform(name="workers", shared=True, num_workers=8, scenarios=(WORKER_KILLED,)),
    Platform(
        name="soak", shared=True, num_workers=4, scenarios=(DRAINED, CANCELLED, PAUSED, SOAK)
    ),
    Platform(
        name="processes", shared=False, num_workers=5,
        scenarios=(PROCESS_KILLED, POISON, RACES, AGAIN, DELIVERED_AGAIN),
    ),
    Platform(
        name="one machine", shared=False, num_workers=2, has_clock=True,
        scenarios=(SUSPENDED, CLOCK, LEADER_KILLED, REDIS_LOST),
    ),
    Platform(
        name="database", shared=True, num_workers=2, has_clock=True,
        scenarios=(
            DATABASE_RESTARTED, PARTITIONED, WORKER_FROZEN, SUSPENDED, CLOCK, RACES,
        ),
    ),
    Platform(
        name="store", shared=True, num_workers=2,
        scenarios=(KILLED_IN_COMMIT, STORE_AWAY, STORE_BAD, DAMAGED, DISK_FULL, SAVED),
    ),
)  # fmt: skip

SHORT_PLATFORMS = (
    Platform(
        name="one machine", shared=False, num_workers=3, has_clock=True,
        scenarios=(
            PROCESS_KILLED, LEADER_KILLED, POISON, CANCELLED, PAUSED, RACES, AGAIN,
            DELIVERED_AGAIN, REDIS_LOST,
        ),
    ),
    Platform(
        name="servers", shared=True, num_workers=3,
        scenarios=(
            WORKER_KILLED, KILLED_IN_COMMIT, WORKER_FROZEN, DATABASE_RESTARTED, PARTITIONED,
            DRAINED, STORE_AWAY, STORE_BAD, DAMAGED, DISK_FULL,
        ),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Which faults, how many of each, and how long what must come may take."""

    scale: Scale
    platforms: tuple[Platform, ...]
    patience: float
    """Seconds; what is slow because the machine is busy is no failure."""


SUITES = {
    "full": Suite(scale=FULL, platforms=PLATFORMS, patience=3600.0),
    "quick": Suite(scale=QUICK, platforms=PLATFORMS, patience=3600.0),
    "short": Suite(scale=SHORT, platforms=SHORT_PLATFORMS, patience=300.0),
}
"""`make chaos`, `make chaos QUICK=1`, and what `make test` does."""


def undisturbed(cluster: Cluster) -> Result:
    """What a job makes when nothing happens to it."""
    job_id = cluster.submit(model="undisturbed")
    cluster.wait_for(job_id, JobState.SUCCEEDED)
    check_history(cluster, job_id)
    return result_of(cluster, job_id)


def inject(
    scenario: Scenario, cluster: Cluster, scale: Scale, expected: Result, *, platform: str
) -> Ledger:
    """Let one class of faults happen; whatever does not hold is a failure in the ledger."""
    ledger = scenario.ledger(platform)
    trial = Trial(cluster=cluster, scale=scale, ledger=ledger, expected=expected)
    since = time.monotonic()
    with Reader(cluster.store) as reader:
        try:
            cluster.client()  # waits for the API, which on a busy machine starts after the workers
            scenario.run(trial)
        except Exception:  # noqa: BLE001 - the other classes are still to be tried
            ledger.failures.append(traceback.format_exc())
    ledger.served, ledger.torn = reader.served, len(reader.torn)
    ledger.failures += reader.torn
    ledger.seconds = time.monotonic() - since
    ledger.at = f"{utc_now():%Y-%m-%d %H:%M}"
    ledger.code_version, ledger.load = code_version(), os.getloadavg()[2]
    return ledger
