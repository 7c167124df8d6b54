"""The engine: one thread that turns queued sequences into tokens, step by step.

Each step plans rows, computes them (one batch for each loaded model that has any), draws tokens
and hands what came out of it to `deliver`, once for the whole step. Any thread may submit and
abort. Knows no HTTP and no files.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

from services.inference.loaded_model import BatchRow, LoadedModel
from services.inference.sampler import SampleRow, sample
from services.inference.scheduler import Row, Scheduler
from services.inference.sequence import Delta, FinishReason, Sequence
from shared.base.errors import UnavailableError

logger = logging.getLogger(__name__)

IDLE_SECONDS = 0.5
"""An idle loop looks up this often, so that its heartbeat stays young."""

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


class Engine:
    """Continuous batching over a scheduler; see the module."""

    def __init__(self, scheduler: Scheduler, deliver: Deliver, observer: EngineObserver) -> None:
        self._scheduler = scheduler
        self._deliver = deliver
        self._observer = observer
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self.last_beat = time.monotonic()
        """When the loop last came round."""

    @property
    def is_running(self) -> bool:
        """Whether the loop's thread lives."""
        return self._thread.is_alive()

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
        self._settle([(one, one.fail("The service is shutting down.")) for one in left])

    def submit(self, sequence: Sequence) -> None:
        """Queue a sequence.

        Raises QueueFullError, NeverFitsError or EngineStoppedError; nothing is kept then.
        """
        with self._changed:
            if self._stopping:
                raise EngineStoppedError("The service is shutting down.")
            self._scheduler.add(sequence)
            self._changed.notify()

    def abort(self, sequence: Sequence) -> None:
        """Stop computing a sequence and free its slot; one that has ended is no error."""
        with self._changed:
            if sequence.finished:
                return
            sequence.finish_reason = FinishReason.ABORT
            self._scheduler.remove(sequence)
        self._observer.on_finish(sequence)

    def step(self) -> bool:
        """Compute one step; return whether there was anything to compute."""
        with self._changed:
            rows = self._scheduler.plan()
        if not rows:
            return False
        now = time.monotonic()
        for row in rows:
            row.sequence.started_at = row.sequence.started_at or now
        deltas: list[tuple[Sequence, Delta]] = []
        for model, group in _by_model(rows):
            deltas += self._compute(model, group)
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

    def _compute(self, model: LoadedModel, rows: list[Row]) -> list[tuple[Sequence, Delta]]:
        """Run one model's rows. A failure ends these sequences and no others."""
        try:
            tokens = _next_tokens(model, rows)
        except Exception:  # the boundary of the engine's thread: it must outlive any batch
            logger.exception("A step of %s:%s failed", model.name, model.version)
            return [(r.sequence, r.sequence.fail("Computing the answer failed.")) for r in rows]
        deltas = []
        with self._changed:  # an abort must not fall between the check and the change
            for row in rows:
                if not row.sequence.finished:
                    row.sequence.num_cached = row.end
            for row, token in zip([row for row in rows if row.samples], tokens, strict=True):
                if not row.sequence.finished:
                    deltas.append((row.sequence, row.sequence.accept(token)))
        return deltas

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


def _next_tokens(model: LoadedModel, rows: list[Row]) -> list[int]:
    """Compute rows and draw a token for each that samples, in their order."""
    batch = [
        BatchRow(
            ids=row.sequence.tokens[row.start : row.end],
            start=row.start,
            slot=row.slot,
            samples=row.samples,
        )
        for row in rows
    ]
    wanted = [
        SampleRow(params=row.sequence.sampling, num_generated=row.sequence.num_generated)
        for row in rows
        if row.samples
    ]
    with torch.inference_mode():
        return sample(model.compute(batch), wanted)


def _by_model(rows: Iterable[Row]) -> list[tuple[LoadedModel, list[Row]]]:
    groups: dict[int, tuple[LoadedModel, list[Row]]] = {}
    for row in rows:
        model = row.sequence.model
        groups.setdefault(id(model), (model, []))[1].append(row)
    return list(groups.values())


def _prompt_tokens(row: Row) -> int:
    return max(0, min(row.end, len(row.sequence.prompt)) - row.start)
