"""The training loop: steps, logging, evaluations, checkpoints, stops.

Knows no queue, database, web or store: it is handed data, a loss and a few callables. The host
waits for the device only when it logs, evaluates or saves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from torch import Tensor

from services.trainer.data import Batch, DataOrder, TrainingData
from services.trainer.optim import set_rate
from services.trainer.plan import Plan
from shared.base.errors import JobFailedError
from shared.contracts.names import FailureCode
from shared.contracts.progress import (
    MetricsLine,
    PhaseLine,
    ProgressLine,
    ProgressMessage,
    Series,
)

PROGRESS_SECONDS = 1.0


class Outcome(StrEnum):
    """How a run of the loop ended."""

    FINISHED = "finished"
    STOPPED = "stopped"
    CANCELLED = "cancelled"


@dataclass(slots=True, kw_only=True)
class Position:
    """How far a run is: with weights and optimizer, all there is to resume from."""

    step: int = 0
    sequences: int = 0
    """Rows consumed: the place in the data order."""
    tokens: int = 0
    """Tokens fed, padding left out."""
    window_loss: float = 0.0
    """Sum of step losses since the last log."""
    window_steps: int = 0
    best_validation_loss: float | None = None
    """Lowest among saved checkpoints."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Latest evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the loop may ask of the world."""

    report: Callable[[ProgressMessage], None]
    evaluate: Callable[[int], dict[str, float] | None]
    """Evaluate after this many steps; None when a stop interrupted it."""
    save: Callable[[Position, bool, bool], None]
    """Write a checkpoint: position, whether it is the best so far, whether it is the last."""
    cancelled: Callable[[], bool]
    """Looked at between micro-batches; the step is dropped."""
    stopping: Callable[[], bool]
    """Looked at between steps; a checkpoint is written first."""


class Trainer:
    """Runs `plan` from a position to its end, or until told to stop."""

    def __init__(
        self,
        *,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Callable[[Batch], Tensor],
        data: TrainingData,
        order: DataOrder,
        plan: Plan,
        position: Position,
        hooks: Hooks,
        device: torch.device,
        sync_each_step: bool,
    ) -> None:
        """`sync_each_step`: look at every loss at once (a CPU), not only when logging (a GPU)."""
        self._parameters = list(model.parameters())
        self._optimizer, self._loss = optimizer, loss
        self._data, self._order = data, order
        self._plan, self.position, self._hooks = plan, position, hooks
        self._sync_each_step = sync_each_step
        self._window_loss = torch.tensor(position.window_loss, dtype=torch.float64, device=device)
        self._grad_norm = torch.zeros((), device=device)
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)
        self._saved_step = -1
        self._meter = _Meter(tokens=position.tokens)

    def run(self) -> Outcome:
        """Train; returns how it ended. Raises JobFailedError when the loss is not finite."""
        self._hooks.report(PhaseLine(phase="training"))
        while self.position.step < self._plan.total_steps:
            if not self._step():
                return Outcome.CANCELLED
            self._report_step()
            if self._hooks.stopping():
                break
            if self.position.step < self._plan.total_steps:
                self._serve_intervals()
        return self._end()

    def _serve_intervals(self) -> None:
        step = self.position.step
        best = step % self._plan.eval_interval == 0 and self._evaluate()
        if step % self._plan.save_interval == 0:
            self._save(best=best, final=False)

    def _end(self) -> Outcome:
        """Evaluate and write the last checkpoint, or a plain one when the run stops early."""
        finished = self.position.step >= self._plan.total_steps
        if finished and not self._hooks.stopping():
            best = self._evaluate()
            if not self._hooks.stopping():
                self._save(best=best, final=True)
                return Outcome.FINISHED
        if self._hooks.cancelled():
            return Outcome.CANCELLED
        self._save(best=False, final=False)
        return Outcome.STOPPED

    def _step(self) -> bool:
        """Do one optimizer step; False when it was dropped by a cancellation."""
        plan, first = self._plan, self.position.sequences
        epochs, rows = self._order.locate(first, plan.sequences_per_step)
        counted, fed = self._data.counts(rows)
        step_loss = torch.zeros_like(self._grad_norm)
        for start in range(0, len(rows), plan.batch_size):
            if self._hooks.cancelled():
                self._optimizer.zero_grad(set_to_none=True)
                return False
            part = slice(start, start + plan.batch_size)
            # Over the whole step's count: k micro-batches then equal one of k times the size.
            loss = self._loss(self._data.batch(epochs[part], rows[part])) / counted
            loss.backward()  # type: ignore[no-untyped-call]
            step_loss += loss.detach()
        self._update(step_loss)
        self.position.step += 1
        self.position.sequences += len(rows)
        self.position.tokens += fed
        self.position.window_steps += 1
        return True

    def _update(self, step_loss: Tensor) -> None:
        self._grad_norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._plan.max_grad_norm)
        finite = torch.isfinite(step_loss) & torch.isfinite(self._grad_norm)
        self._hold_weights_unless(finite)
        if self._sync_each_step:
            self._raise_if_diverged()
        set_rate(self._optimizer, self._plan.schedule.rate(self.position.step))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._window_loss += step_loss

    def _hold_weights_unless(self, finite: Tensor) -> None:
        """Let the fused optimizer skip this and all later steps once a loss is not finite.

        That needs no host sync: the host learns of it when it next looks, and fails the job.
        """
        new = (self._first_bad < 0) & ~finite
        self._first_bad = torch.where(new, self.position.step, self._first_bad)
        self._optimizer.found_inf = (self._first_bad >= 0).float()  # type: ignore[attr-defined]

    def _raise_if_diverged(self) -> None:
        if (first_bad := int(self._first_bad)) >= 0:
            raise _diverged(first_bad)

    def _report_step(self) -> None:
        step, last = self.position.step, self.position.step == self._plan.total_steps
        if step % self._plan.log_interval == 0 or last:
            self._log()
        if self._meter.progress_due() or last:
            self._hooks.report(ProgressLine(step=step, total_steps=self._plan.total_steps))

    def _log(self) -> None:
        self._raise_if_diverged()
        position = self.position
        values = {
            "loss": float(self._window_loss) / position.window_steps,
            "learning_rate": self._plan.schedule.rate(position.step - 1),
            "grad_norm": float(self._grad_norm),
            "tokens_per_second": self._meter.rate(position.tokens),
        }
        self._window_loss.zero_()
        position.window_steps = 0
        self._report_metrics("train", values)

    def _evaluate(self) -> bool:
        """Evaluate; True when the loss is below that of every checkpoint so far."""
        self._raise_if_diverged()
        with self._meter.away():
            metrics = self._hooks.evaluate(self.position.step)
        if metrics is None:
            return False
        self.position.metrics = metrics
        self._report_metrics("validation", metrics)
        best = self.position.best_validation_loss
        return best is None or metrics["validation_loss"] < best

    def _report_metrics(self, series: Series, values: dict[str, float]) -> None:
        step, tokens = self.position.step, self.position.tokens
        self._hooks.report(MetricsLine(series=series, step=step, tokens=tokens, values=values))

    def _save(self, *, best: bool, final: bool) -> None:
        if self._saved_step == self.position.step and not final:
            return
        self._raise_if_diverged()
        self.position.window_loss = float(self._window_loss)
        if best:
            self.position.best_validation_loss = self.position.metrics["validation_loss"]
        with self._meter.away():
            self._hooks.save(self.position, best, final)
        self._saved_step = self.position.step


class _Meter:
    """Tells time for reports only; nothing that is computed depends on it."""

    def __init__(self, *, tokens: int) -> None:
        self._tokens = tokens
        self._since = self._last_progress = time.perf_counter()

    def rate(self, tokens: int) -> float:
        """Tokens a second since the last call, time away left out."""
        now = time.perf_counter()
        rate = (tokens - self._tokens) / max(now - self._since, 1e-9)
        self._since, self._tokens = now, tokens
        return rate

    @contextmanager
    def away(self) -> Iterator[None]:
        """Time that is not training's."""
        left = time.perf_counter()
        yield
        self._since += time.perf_counter() - left

    def progress_due(self) -> bool:
        """Whether the last sign of life is a while ago; then this is one."""
        now = time.perf_counter()
        due = now - self._last_progress >= PROGRESS_SECONDS
        if due:
            self._last_progress = now
        return due


def _diverged(step: int) -> JobFailedError:
    return JobFailedError(
        f"The loss or its gradient is not finite at step {step + 1}; the weights were not touched.",
        code=FailureCode.DIVERGED,
        hint="Lower lr or max_grad_norm, lengthen warmup_steps, then resume from a checkpoint.",
    )
