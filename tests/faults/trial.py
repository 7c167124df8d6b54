"""One class of faults on one platform: jobs are submitted, struck, and judged by their history."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from ryangpt import Client
from shared.contracts.names import JobState
from tests.faults.cluster import Cluster
from tests.faults.history import Result, check_history, claims_of, result_of
from tests.faults.ledger import Ledger
from tests.support.platforms import still_running
from tests.support.waiting import wait_until

POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of everything."""

    time_factor: float
    """Durations of the platform and of outages are multiplied by this."""
    kills: int
    """Processes and workers killed, each."""
    interval: int
    """Steps between two checkpoints of a job: long beside what it takes to store one."""
    times: int
    """Every other fault, at least."""
    races: int
    """Cancels that race completions."""
    soak_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """A fault that ended an attempt of a job."""

    job_id: str
    at: datetime
    told_step: int
    """The last step that was done before."""


@dataclass(kw_only=True)
class Trial:
    """What a scenario works with."""

    cluster: Cluster
    scale: Scale
    ledger: Ledger
    expected: Result
    """What every job makes when nothing happens to it."""
    among_others: bool = False
    """Faults overlap: one that begins anew what finds another, as the leader's death does, may
    delay it beyond its bound."""
    _strikes: list[Strike] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://127.0.0.1:{self.cluster.api_port}"

    @cached_property
    def client(self) -> Client:
        """A client of the API, which is there."""
        return self.cluster.client()

    def submit(self, number: int = 1, **changes: Any) -> list[str]:
        """Queue so many jobs, each of a model of its own."""
        self.ledger.jobs += number
        return [self.cluster.submit(model=self._model(), **changes) for _ in range(number)]

    def train_document(self) -> dict[str, Any]:
        """The same job as a request."""
        return {"kind": "train", "spec": self.cluster.spec(model=self._model())}

    def _model(self) -> str:
        return f"{self.ledger.code.lower()}-{time.monotonic_ns()}"

    def wait_seconds(self, seconds: float) -> None:
        """Let an outage last so long at true durations."""
        threading.Event().wait(seconds * self.scale.time_factor)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for what must come; AssertionError when it does not."""
        wait_until(condition, what, seconds=self.cluster.patience, poll=0.05)

    def bounded(self, name: str, seconds: float, bound: float | None) -> None:
        """Note a duration; its bound, like all durations, is one at true durations."""
        shown = None if bound is None else bound * self.scale.time_factor
        self.ledger.measure(name, seconds, shown)

    def strike(
        self,
        job_id: str,
        kind: str,
        action: Callable[[], object],
        *,
        happened: Callable[[], datetime] | None = None,
    ) -> None:
        """Do to a running job what ends its attempt; `happened` says when, if not at once."""
        told_step = self.cluster.told_step(job_id)
        at = datetime.now(UTC)
        action()
        at = happened() if happened else at
        told_step = max(told_step, self.cluster.told_step(job_id))
        self.ledger.faults[kind] += 1
        self._strikes.append(Strike(job_id=job_id, at=at, told_step=told_step))

    def finish(self, *job_ids: str) -> None:
        """Every job succeeds, has a sound history, and has made what it must."""
        for job_id in job_ids:
            self.cluster.wait_for(job_id, JobState.SUCCEEDED)
            self.judge(job_id)
            self.ledger.compared += 1
            result = result_of(self.cluster, job_id)
            assert result == self.expected, f"{job_id} has made something else: {result}"
            self.ledger.equal += 1

    def judge(self, job_id: str) -> None:
        """The history of a job that has ended is sound; note what its faults have cost."""
        check_history(self.cluster, job_id)
        self.ledger.ended += 1
        claims = claims_of(self.cluster, job_id)
        for strike in [strike for strike in self._strikes if strike.job_id == job_id]:
            self._strikes.remove(strike)
            later = [claim for claim in claims if claim.queued_at > strike.at]
            if not later:
                continue
            detection = (later[0].queued_at - strike.at).total_seconds()
            if self.among_others:
                self.ledger.measure("seconds until a fault is found among others", detection)
            else:
                self.bounded("seconds until a fault is found", detection, 60.0)
            self.ledger.measure(
                "seconds until work goes on", (later[0].at - strike.at).total_seconds()
            )
            lost = max(0, strike.told_step - later[0].resume_step) / self.cluster.interval
            self.ledger.measure("checkpoint intervals of work lost", lost)

    def fail_in(self, what: str, error: BaseException) -> None:
        """Note that something did not hold."""
        self.ledger.failures.append(f"{what}: {type(error).__name__}: {error}")

    def harvest(
        self, strikes: int, kind: str, action: Callable[[str, str], object], *, at_once: int
    ) -> None:
        """Strike `at_once` running jobs, each again whenever it has a new checkpoint.

        `action(worker, job id)` is the strike. Jobs that end before all strikes are done are
        replaced by new ones; at the end every job is finished.
        """
        steps = dict.fromkeys(self.submit(at_once), -1)
        done, finished = 0, list[str]()
        while done < strikes:
            for job_id, step in list(steps.items()):
                if done < strikes and self._is_ripe(job_id, step):
                    self._jitter()
                    done += self._strike_if_running(job_id, kind, action)
                    steps[job_id] = self.cluster.newest_checkpoint(job_id)
                elif self.cluster.job(job_id).finished_at is not None:
                    finished.append(job_id)
                    del steps[job_id]
                    steps |= dict.fromkeys(self.submit(1), -1)
            time.sleep(POLL_SECONDS)
        self.finish(*finished, *steps)

    def _is_ripe(self, job_id: str, step: int) -> bool:
        return self.cluster.newest_checkpoint(job_id) > step

    def _jitter(self) -> None:
        time.sleep(random.uniform(0.0, 0.5))

    def _strike_if_running(
        self, job_id: str, kind: str, action: Callable[[str, str], object]
    ) -> bool:
        trainer = self.cluster.trainer_of(job_id)
        if trainer is None or self.cluster.job(job_id).state is not JobState.RUNNING:
            return False
        self.strike(job_id, kind, lambda: action(trainer[0], job_id))
        return True

    def kill_trainer(self, _worker: str, job_id: str) -> None:
        """kill -9 of the process that trains."""
        trainer = self.cluster.trainer_of(job_id)
        if trainer is not None:
            trainer[1].kill()

    def kill_worker(self, worker: str, _job_id: str) -> None:
        """kill -9 of a worker; what it had started must be gone at once. It is started again."""
        below = self.cluster.tree(worker)[1:]
        process = self.cluster.processes[worker]
        process.kill()
        process.wait()
        since = time.monotonic()
        wait_until(lambda: not still_running(below), "what a worker had started has ended")
        self.ledger.measure("seconds until no orphan is left", time.monotonic() - since, 2.0)
        self.cluster.bury(worker, below)
        self.cluster.start(worker)
