"""The training loop: steps, logging, evaluations, checkpoints, stops, and what it does about NaN.

Knows no queue, database, web or store: it is handed data, a loss and a few callables. The host
waits for the device only when it logs, evaluates or saves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from torch import Tensor

from services.trainer.data import DataOrder, Indices, TrainingData
from services.trainer.gauge import Machine, Meter, Pace
from services.trainer.guard import FiniteGuard, Skips
from services.trainer.optim import set_rate
from services.trainer.plan import Plan
from services.trainer.team import ALONE, Team, TeamLoss
from shared.base.errors import JobFailedError
from shared.contracts.names import FailureCode
from shared.contracts.progress import (
    MetricsLine,
    NoticeLine,
    PhaseLine,
    ProgressLine,
    ProgressMessage,
    Series,
)

PROGRESS_SECONDS = 1.0
SKIPS_IN_A_ROW = 3
"""So many steps in a row without a finite loss, and the last saved weights are put back."""


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
    """Sum of finite step losses since the last log."""
    window_steps: int = 0
    """How many they are."""
    best_validation_loss: float | None = None
    """Lowest among saved checkpoints."""
    evaluations_since_best: int = 0
    """In a row, without a lower loss."""
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
    roll_back: Callable[[], int]
    """Put back weights and optimizer of the last save, or the first ones; returns their step."""
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
        loss: TeamLoss,
        data: TrainingData,
        order: DataOrder,
        plan: Plan,
        position: Position,
        hooks: Hooks,
        machine: Machine,
        team: Team = ALONE,
    ) -> None:
        device = machine.device
        self._parameters = list(model.parameters())
        self._optimizer, self._loss = optimizer, loss
        self._data, self._order = data, order
        self._plan, self.position, self._hooks = plan, position, hooks
        self._team = team
        self._looks_each_step = device.type == "cpu"
        window = [position.window_loss, position.window_steps]
        self._window = torch.tensor(window, dtype=torch.float64, device=device)
        self._grad_norm = torch.zeros((), device=device)
        self._guard = FiniteGuard(device)
        self._rolled_back: Skips | None = None
        self._saved_step = -1
        self._pace = Pace(PROGRESS_SECONDS)
        self._meter = Meter(machine, tokens=position.tokens, step=position.step)

    def run(self) -> Outcome:
        """Train; returns how it ended. Raises JobFailedError when the loss does not stay finite."""
        self._hooks.report(PhaseLine(phase="training"))
        while self.position.step < self._plan.total_steps:
            if not self._step():
                return Outcome.CANCELLED
            self._report_step()
            if self._hooks.stopping():
                break
            if self.position.step < self._plan.total_steps and self._serve_intervals():
                return self._finish_early()
        return self._end()

    def _serve_intervals(self) -> bool:
        """Evaluate and save where it is time; True when it has become no better for too long."""
        step, patience = self.position.step, self._plan.early_stop_evaluations
        best = step % self._plan.eval_interval == 0 and self._evaluate()
        if step % self._plan.save_interval == 0 or (best and patience is not None):
            self._save(best=best, final=False)
        return patience is not None and self.position.evaluations_since_best >= patience

    def _finish_early(self) -> Outcome:
        """The weights of now are the last ones; their evaluation has just been made."""
        position = self.position
        message = (
            f"Stopped after step {position.step} of {self._plan.total_steps}: the validation loss "
            f"was no lower in {position.evaluations_since_best} evaluations."
        )
        self._hooks.report(NoticeLine(message=message))
        self._save(best=False, final=True)
        return Outcome.FINISHED

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
        with self._meter.data():
            epochs, rows = self._order.locate(first, plan.sequences_per_step)
            counted, fed = self._data.counts(rows)
        mine = self._team.share(len(rows))
        step_loss = self._backward(epochs[mine], rows[mine], counted)
        if step_loss is None:
            self._optimizer.zero_grad(set_to_none=True)
            return False
        self._update(self._team.total(step_loss / self._team.size))
        self.position.step += 1
        self.position.sequences += len(rows)
        self.position.tokens += fed
        if self._looks_each_step:
            self._look()
        return True

    def _backward(self, epochs: Indices, rows: Indices, counted: int) -> Tensor | None:
        """Add up this process's gradients; returns its loss, or None when it was cancelled."""
        total, size = torch.zeros_like(self._grad_norm), self._plan.batch_size
        for start in range(0, len(rows), size):
            if self._hooks.cancelled():
                return None
            part = slice(start, start + size)
            with self._meter.data():
                batch = self._data.batch(epochs[part], rows[part])
            with self._loss.micro_batch(last=start + size >= len(rows)):
                # Over the whole step's count: k micro-batches then equal one of k times the size.
                loss = self._loss(batch) / counted
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            self._show_life()
        return total

    def _update(self, step_loss: Tensor) -> None:
        self._grad_norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._plan.max_grad_norm)
        finite = self._guard.check(step_loss, self._grad_norm, self.position.step)
        # The fused optimizer then changes nothing, and no host waits to know it.
        self._optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        set_rate(self._optimizer, self._plan.schedule.rate(self.position.step))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._window += torch.stack([torch.where(finite, step_loss, 0.0), finite])

    def _look(self) -> None:
        """Learn of steps that were passed over; go back when there is no end of them.

        Raises JobFailedError when going back has not helped.
        """
        skips = self._guard.look()
        if skips.count:
            self._tell(f"{self._where(skips)} {skips.count} step(s) were passed over.")
        if skips.in_a_row < SKIPS_IN_A_ROW:
            return
        if self._rolled_back is not None:
            raise _diverged(self._where(self._rolled_back))
        self._rolled_back = skips
        step = self._hooks.roll_back()
        self._guard.forget()
        self._tell(
            f"{skips.in_a_row} steps in a row had no finite loss: the weights of step {step} are "
            "back, and training goes on with the data that comes next."
        )

    def _where(self, skips: Skips) -> str:
        """Which step, and which documents were in its batch."""
        per_step = self._plan.sequences_per_step
        sequence = self.position.sequences - (self.position.step - skips.first) * per_step
        documents = self._data.describe(*self._order.locate(sequence, per_step))
        return (
            f"The loss or its gradient is not finite at step {skips.first + 1}, whose batch holds "
            f"{documents}."
        )

    def _tell(self, message: str) -> None:
        self._hooks.report(NoticeLine(level="warning", message=message))

    def _report_step(self) -> None:
        step, last = self.position.step, self.position.step == self._plan.total_steps
        if step % self._plan.log_interval == 0 or last:
            self._log()
        self._show_life(at_once=last)

    def _show_life(self, *, at_once: bool = False) -> None:
        """A step can take minutes; after each micro-batch it can be seen that nothing hangs."""
        if self._pace.due() or at_once:
            step, total_steps = self.position.step, self._plan.total_steps
            self._hooks.report(ProgressLine(step=step, total_steps=total_steps))

    def _log(self) -> None:
        self._look()
        position = self.position
        loss, steps = self._window.tolist()
        values = {
            "loss": loss / steps if steps else float("nan"),
            "learning_rate": self._plan.schedule.rate(position.step - 1),
            "grad_norm": float(self._grad_norm),
            **self._meter.take(position.tokens, position.step),
        }
        self._window.zero_()
        self._report_metrics("train", values)

    def _evaluate(self) -> bool:
        """Evaluate; True when the loss is below that of every checkpoint so far."""
        self._look()
        position = self.position
        with self._meter.away():
            metrics = self._hooks.evaluate(position.step)
        if metrics is None:
            return False
        position.metrics = metrics
        self._report_metrics("validation", metrics)
        lowest = position.best_validation_loss
        best = lowest is None or metrics["validation_loss"] < lowest
        position.evaluations_since_best = 0 if best else position.evaluations_since_best + 1
        return best

    def _report_metrics(self, series: Series, values: dict[str, float]) -> None:
        step, tokens = self.position.step, self.position.tokens
        self._hooks.report(MetricsLine(series=series, step=step, tokens=tokens, values=values))

    def _save(self, *, best: bool, final: bool) -> None:
        if self._saved_step == self.position.step and not final:
            return
        self._look()
        position = self.position
        position.window_loss, steps = self._window.tolist()
        position.window_steps = int(steps)
        if best:
            position.best_validation_loss = position.metrics["validation_loss"]
        with self._meter.away(saving=True):
            self._hooks.save(position, best, final)
        self._saved_step, self._rolled_back = position.step, None


def _diverged(where: str) -> JobFailedError:
    return JobFailedError(
        f"{where} Passing over such steps and going back to earlier weights did not help.",
        code=FailureCode.DIVERGED,
        hint="Lower lr or max_grad_norm, lengthen warmup_steps, then resume from a checkpoint; "
        "look at those documents if it happens there again.",
    )
