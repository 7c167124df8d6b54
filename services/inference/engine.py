"""The engine: one thread that turns queued sequences into tokens, step by step.

Each step plans rows, launches their computation (one batch for each loaded model that has any),
lands what was launched and hands the tokens to `deliver`, once for the whole step. Where the runner
stays behind, what lands is the step before: the device computes while the host reads. Any thread
may submit and abort. Knows no HTTP, no files and no tensors.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from services.inference.loaded_model import LoadedModel
from services.inference.runner import Flight, Runner
from services.inference.scheduler import Row, Scheduler
from services.inference.sequence import Delta, FailureCode, FinishReason, Sequence
from shared.base.errors import UnavailableError

logger = logging.getLogger(__name__)

IDLE_SECONDS = 0.5
"""An idle loop looks up this often, so that its heartbeat stays young."""

EXPIRY_SECONDS = 0.05
"""Deadlines are looked at this often."""

Deliver = Callable[[list[tuple[Sequence, Delta]]], None]


class EngineStoppedError(UnavailableError):
    """The service is shutting down."""

    code = "shutting_down"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """One step in numbers."""

    prompt_tokens: int
    generated_tokens: int
    num_running: int
    num_waiting: int


class EngineObserver(Protocol):
    """Told what happens, for metrics; from several threads."""

    def on_step(self, stats: StepStats) -> None:
        """A step is done."""

    def on_token(self, sequence: Sequence, seconds: float) -> None:
        """A sequence got a token, so many seconds after its last one (or its arrival)."""

    def on_finish(self, sequence: Sequence) -> None:
        """A sequence has ended, for any reason."""


class _Launched(NamedTuple):
    """One model's rows of a step, under way."""

    rows: list[Row]
    flight: Flight | None
    """None when it could not even be begun."""


class Engine:
    """Continuous batching over a scheduler; see the module."""

    def __init__(
        self, scheduler: Scheduler, runner: Runner, deliver: Deliver, observer: EngineObserver
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._flying: list[_Launched] = []
        self._deliver = deliver
        self._observer = observer
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._expire_at = 0.0
        self._is_broken = False
        self.last_beat = time.monotonic()
        """When the loop last came round."""

    @property
    def is_running(self) -> bool:
        """Whether the loop's thread lives, and can compute."""
        return self._thread.is_alive() and not self._is_broken

    @property
    def load(self) -> tuple[int, int]:
        """Sequences with a slot, and without one."""
        with self._changed:
            return self._scheduler.num_running, self._scheduler.num_waiting

    def start(self) -> None:
        """Start the loop."""
        self._thread.start()

    def stop(self) -> None:
        """End the loop after its present step; what has not finished is failed."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        with self._changed:
            left = self._scheduler.sequences()
        self._fail(left, "The service is shutting down.", FailureCode.SHUTDOWN)

    def submit(self, *sequences: Sequence) -> None:
        """Queue sequences: all of them, or none.

        Raises QueueFullError, NeverFitsError or EngineStoppedError; nothing is kept then.
        """
        with self._changed:
            if self._stopping:
                raise EngineStoppedError("The service is shutting down.")
            self._scheduler.add(*sequences)
            self._changed.notify()

    def abort(self, sequence: Sequence) -> None:
        """Stop computing a sequence and free its slot; one that has ended is no error."""
        with self._changed:
            if sequence.finished:
                return
            sequence.finish_reason = FinishReason.ABORT
            self._scheduler.remove(sequence)
        self._observer.on_finish(sequence)

    def uses(self, model: LoadedModel) -> bool:
        """Whether any sequence is bound to `model`."""
        with self._changed:
            return any(one.model is model for one in self._scheduler.sequences())

    def replace(self, old: LoadedModel, new: LoadedModel) -> None:
        """Let `new` answer the requests that wait for `old` and mean the same to both."""
        if not new.understands(old):
            return
        with self._changed:
            for one in self._scheduler.sequences():
                if one.model is old and not one.binding.is_fixed:
                    one.binding.model = new

    def fix_version(self, sequence: Sequence) -> None:
        """Its version has been told to somebody: from now on no other one takes over."""
        with self._changed:
            sequence.binding.is_fixed = True

    def retire(self, model: LoadedModel) -> None:
        """Fail the sequences that are bound to `model`."""
        with self._changed:
            bound = [one for one in self._scheduler.sequences() if one.model is model]
        message = f"Version {model.version} of {model.name} was replaced; ask again."
        self._fail(bound, message, FailureCode.RETIRED)

    def step(self) -> bool:
        """Launch one step and land what is due; return whether there was anything to do."""
        now = time.monotonic()
        self._expire(now)
        with self._changed:
            rows = self._scheduler.plan()
        for row in rows:
            row.sequence.started_at = row.sequence.started_at or now
        launched = [self._launch(model, group) for model, group in _by_model(rows)]
        if self._runner.stays_behind:
            landing, self._flying = self._flying, launched
        else:
            landing = launched
        if not (landing or launched):
            return False
        deltas = [delta for one in landing for delta in self._land(one)]
        self._settle(deltas)
        running, waiting = self.load
        self._observer.on_step(
            StepStats(
                prompt_tokens=sum(_prompt_tokens(row) for row in rows),
                generated_tokens=sum(delta.num_tokens for _, delta in deltas),
                num_running=running,
                num_waiting=waiting,
            )
        )
        return True

    def _loop(self) -> None:
        while True:
            self.last_beat = time.monotonic()
            with self._changed:
                if self._stopping:
                    return
            if not self.step():
                with self._changed:
                    if not self._stopping and not self._scheduler.num_waiting:
                        self._changed.wait(IDLE_SECONDS)

    def _expire(self, now: float) -> None:
        """Fail what has waited or run for too long."""
        if now < self._expire_at:
            return
        self._expire_at = now + EXPIRY_SECONDS
        with self._changed:
            alive = self._scheduler.sequences()
        late = [one for one in alive if one.deadline is not None and now >= one.deadline]
        self._fail(late, "The answer took longer than it may.", FailureCode.TIMEOUT)
        unserved = [
            one
            for one in alive
            if one.slot is None and one.start_deadline is not None and now >= one.start_deadline
        ]
        self._fail(unserved, "No slot became free in time.", FailureCode.QUEUE_TIMEOUT)

    def _fail(self, sequences: list[Sequence], message: str, code: FailureCode) -> None:
        with self._changed:
            deltas = [(one, one.fail(message, code)) for one in sequences if not one.finished]
        self._settle(deltas)

    def _launch(self, model: LoadedModel, rows: list[Row]) -> _Launched:
        """Begin one model's rows. A failure ends these sequences and no others."""
        try:
            flight = self._runner.launch(model, rows)
        except Exception:  # the boundary of the engine's thread: it must outlive any batch
            logger.exception("A step of %s:%s failed", model.name, model.version)
            self._is_broken = not self._runner.is_usable()
            return _Launched(rows, None)
        with self._changed:
            for row in rows:
                row.sequence.num_cached = row.end
                row.sequence.num_pending += row.samples
        return _Launched(rows, flight)

    def _land(self, launched: _Launched) -> list[tuple[Sequence, Delta]]:
        """Wait for rows and add to their sequences what they drew."""
        rows = launched.rows
        if launched.flight is None:
            return self._end_failed(rows)
        try:
            outcomes = launched.flight.land()
        except Exception:  # as above: a device reports what failed when it is asked
            logger.exception("A step failed on its way")
            self._is_broken = not self._runner.is_usable()
            return self._end_failed(rows)
        deltas = []
        with self._changed:  # an abort must not fall between the check and the change
            for row, outcome in zip(rows, outcomes, strict=True):
                sequence = row.sequence
                sequence.num_pending -= row.samples
                if sequence.finished:
                    continue
                sequence.prompt_logprobs += outcome.prompt_logprobs
                if outcome.drawn is not None:
                    deltas.append((sequence, sequence.accept(*outcome.drawn)))
                elif row.end == len(sequence.tokens):
                    deltas.append((sequence, sequence.end_at_prompt()))
        return deltas

    def _end_failed(self, rows: list[Row]) -> list[tuple[Sequence, Delta]]:
        message, code = "Computing the answer failed.", FailureCode.COMPUTATION
        with self._changed:
            return [
                (row.sequence, row.sequence.fail(message, code))
                for row in rows
                if not row.sequence.finished
            ]

    def _settle(self, deltas: list[tuple[Sequence, Delta]]) -> None:
        """Free the slots of what has ended, tell the observer, deliver."""
        with self._changed:
            for sequence, delta in deltas:
                if delta.finish_reason is not None:
                    self._scheduler.remove(sequence)
        now = time.monotonic()
        for sequence, delta in deltas:
            if delta.num_tokens:
                since = sequence.last_token_at or sequence.created_at
                self._observer.on_token(sequence, now - since)
                sequence.last_token_at = now
            if delta.finish_reason is not None:
                self._observer.on_finish(sequence)
        if deltas:
            self._deliver(deltas)


def _by_model(rows: Iterable[Row]) -> list[tuple[LoadedModel, list[Row]]]:
    groups: dict[int, tuple[LoadedModel, list[Row]]] = {}
    for row in rows:
        model = row.sequence.model
        groups.setdefault(id(model), (model, []))[1].append(row)
    return list(groups.values())


def _prompt_tokens(row: Row) -> int:
    return max(0, min(row.end, len(row.sequence.prompt)) - row.start)
