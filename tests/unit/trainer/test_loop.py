"""The loop alone, on one linear layer and made-up losses."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from services.trainer.data import Batch, DataOrder, Indices
from services.trainer.loop import Hooks, Outcome, Position, Trainer
from services.trainer.optim import make_optimizer
from services.trainer.plan import Plan
from services.trainer.schedule import Schedule
from shared.base.errors import JobFailedError
from shared.contracts.progress import MetricsLine, ProgressLine, ProgressMessage


class CountingData:
    """Batches that carry the number of their first row."""

    num_sequences = 6

    def batch(self, epochs: Indices, rows: Indices) -> Batch:
        return Batch(ids=torch.from_numpy(epochs), targets=torch.from_numpy(rows))

    def counts(self, rows: Indices) -> tuple[int, int]:
        return len(rows), 10 * len(rows)


def plan(total_steps: int, *, log_interval: int) -> Plan:
    schedule = Schedule(
        shape="constant", peak=0.1, low=0.1, warmup_steps=0, total_steps=total_steps
    )
    return Plan(
        batch_size=2,
        accumulation=1,
        total_steps=total_steps,
        schedule=schedule,
        max_grad_norm=1.0,
        log_interval=log_interval,
        eval_interval=4,
        save_interval=4,
    )


class Fixture:
    """A trainer of one weight whose loss at each step is weight * factor(step)."""

    def __init__(
        self,
        factor: Callable[[int], float] = lambda step: 1.0,
        *,
        total_steps: int = 8,
        log_interval: int = 1,
        sync_each_step: bool = True,
        validation: Callable[[int], float] = lambda step: 1.0,
    ) -> None:
        self.model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(self.model.weight)
        self.factor, self.calls = factor, 0
        self.lines: list[ProgressMessage] = []
        self.saved: list[tuple[int, bool, bool]] = []
        optimizer = make_optimizer(self.model, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
        hooks = Hooks(
            report=self.lines.append,
            evaluate=lambda step: {"validation_loss": validation(step)},
            save=lambda position, best, final: self.saved.append((position.step, best, final)),
            cancelled=lambda: False,
            stopping=lambda: False,
        )
        self.trainer = Trainer(
            model=self.model,
            optimizer=optimizer,
            loss=self.loss,
            data=CountingData(),
            order=DataOrder(seed=0, num_sequences=6),
            plan=plan(total_steps, log_interval=log_interval),
            position=Position(),
            hooks=hooks,
            device=torch.device("cpu"),
            sync_each_step=sync_each_step,
        )

    def loss(self, batch: Batch) -> Tensor:
        factor = self.factor(self.calls)
        self.calls += 1
        return self.model.weight.sum() * factor * len(batch.targets)

    @property
    def weight(self) -> float:
        return self.model.weight.item()


def nan_at(bad: int) -> Callable[[int], float]:
    return lambda step: math.nan if step == bad else 1.0


def test_a_synchronous_run_stops_at_the_bad_step() -> None:
    fixture = Fixture(nan_at(2))
    with pytest.raises(JobFailedError, match="not finite at step 3"):
        fixture.trainer.run()
    assert fixture.calls == 3
    assert fixture.weight == pytest.approx(1.0 - 2 * 0.1, abs=1e-5)


def test_an_asynchronous_run_keeps_the_weights_and_fails_when_it_next_looks() -> None:
    """As on a GPU: later finite steps must not move the weights either."""
    fixture = Fixture(nan_at(2), log_interval=8, sync_each_step=False)
    with pytest.raises(JobFailedError, match="not finite at step 3"):
        fixture.trainer.run()
    assert fixture.calls == 4  # the evaluation after step 4 looks
    assert fixture.weight == pytest.approx(1.0 - 2 * 0.1, abs=1e-5)
    assert fixture.saved == []


def test_an_infinite_gradient_of_a_finite_loss_counts_as_divergence() -> None:
    fixture = Fixture()
    weight = fixture.model.weight
    fixture.trainer._loss = lambda batch: (weight.sum() - weight.sum().detach()).sqrt()
    with pytest.raises(JobFailedError, match="not finite at step 1"):
        fixture.trainer.run()
    assert fixture.weight == 1.0


def test_intervals_and_the_best_checkpoint() -> None:
    losses = {4: 2.0, 8: 1.5, 12: 1.7, 14: 1.4}
    fixture = Fixture(total_steps=14, log_interval=5, validation=losses.__getitem__)
    assert fixture.trainer.run() is Outcome.FINISHED
    assert fixture.saved == [
        (4, True, False),
        (8, True, False),
        (12, False, False),
        (14, True, True),
    ]
    logged = [x.step for x in fixture.lines if isinstance(x, MetricsLine) and x.series == "train"]
    assert logged == [5, 10, 14]


def test_a_logged_loss_is_the_mean_since_the_last_one() -> None:
    fixture = Fixture(lambda step: float(step + 1), total_steps=4, log_interval=4)
    fixture.trainer.run()
    (line,) = [x for x in fixture.lines if isinstance(x, MetricsLine) and x.series == "train"]
    weights = 1.0 - 0.1 * np.arange(4)
    assert line.values["loss"] == pytest.approx(float((weights * [1, 2, 3, 4]).mean()), abs=0.02)
    assert line.tokens == 4 * 20


def test_the_last_step_is_reported_as_progress() -> None:
    fixture = Fixture(total_steps=3)
    fixture.trainer.run()
    last = [line for line in fixture.lines if isinstance(line, ProgressLine)][-1]
    assert (last.step, last.total_steps) == (3, 3)
