"""The loop alone, on one linear layer and made-up losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from services.trainer.data import Batch, DataOrder, Indices
from services.trainer.gauge import Machine
from services.trainer.loop import Hooks, Outcome, Position, Trainer
from services.trainer.optim import make_optimizer
from services.trainer.plan import Plan
from services.trainer.schedule import Schedule
from services.trainer.team import ALONE, TeamLoss
from shared.base.errors import JobFailedError
from shared.contracts.names import FailureCode
from shared.contracts.progress import MetricsLine, NoticeLine, ProgressLine, ProgressMessage


class CountingData:
    """Batches that carry the number of their first row."""

    num_sequences = 6

    def batch(self, epochs: Indices, rows: Indices) -> Batch:
        return Batch(ids=torch.from_numpy(epochs), targets=torch.from_numpy(rows))

    def counts(self, rows: Indices) -> tuple[int, int]:
        return len(rows), 10 * len(rows)

    def describe(self, epochs: Indices, rows: Indices) -> str:
        return f"rows {rows.tolist()}"


def plan(total_steps: int, *, log_interval: int, patience: int | None = None) -> Plan:
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
        early_stop_evaluations=patience,
    )


class Fixture:
    """A trainer of one weight whose loss at each step is weight * factor(step)."""

    def __init__(
        self,
        factor: Callable[[int], float] = lambda step: 1.0,
        *,
        total_steps: int = 8,
        log_interval: int = 1,
        looks_each_step: bool = True,
        patience: int | None = None,
        validation: Callable[[int], float] = lambda step: 1.0,
    ) -> None:
        self.model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(self.model.weight)
        self.factor, self.calls = factor, 0
        self.lines: list[ProgressMessage] = []
        self.saved: list[tuple[int, bool, bool]] = []
        self.rolled_back_at: list[int] = []
        optimizer = make_optimizer(self.model, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
        hooks = Hooks(
            report=self.lines.append,
            evaluate=lambda step: {"validation_loss": validation(step)},
            save=lambda position, best, final: self.saved.append((position.step, best, final)),
            roll_back=self.roll_back,
            cancelled=lambda: False,
            stopping=lambda: False,
        )
        self.trainer = Trainer(
            model=self.model,
            optimizer=optimizer,
            loss=TeamLoss(self.model, self.loss, ALONE),
            data=CountingData(),
            order=DataOrder(seed=0, num_sequences=6),
            plan=plan(total_steps, log_interval=log_interval, patience=patience),
            position=Position(),
            hooks=hooks,
            machine=Machine(device=torch.device("cpu"), flops_per_token=7, peak_flops=None),
        )
        self.trainer._looks_each_step = looks_each_step

    def loss(self, batch: Batch) -> Tensor:
        factor = self.factor(self.calls)
        self.calls += 1
        return self.model.weight.sum() * factor * len(batch.targets)

    def roll_back(self) -> int:
        self.rolled_back_at.append(self.trainer.position.step)
        torch.nn.init.constant_(self.model.weight, 5.0)
        return 0

    @property
    def notices(self) -> list[str]:
        return [line.message for line in self.lines if isinstance(line, NoticeLine)]

    @property
    def weight(self) -> float:
        return self.model.weight.item()


def nan_in(bad: range) -> Callable[[int], float]:
    return lambda step: math.nan if step in bad else 1.0


def test_a_step_without_a_finite_loss_is_passed_over() -> None:
    fixture = Fixture(nan_in(range(2, 3)), total_steps=4)
    assert fixture.trainer.run() is Outcome.FINISHED
    assert fixture.weight == pytest.approx(1.0 - 3 * 0.1, abs=1e-5)
    assert fixture.notices == [
        "The loss or its gradient is not finite at step 3, whose batch holds rows [0, 1]. "
        "1 step(s) were passed over.",
    ]
    losses = [x.values["loss"] for x in fixture.lines if isinstance(x, MetricsLine)
              and x.series == "train"]  # fmt: skip
    assert [math.isnan(loss) for loss in losses] == [False, False, True, False]
    assert fixture.trainer.position.step == 4


def test_three_in_a_row_go_back_to_the_last_saved_weights() -> None:
    fixture = Fixture(nan_in(range(5, 8)), total_steps=9)
    assert fixture.trainer.run() is Outcome.FINISHED
    assert fixture.rolled_back_at == [8]
    assert fixture.weight == pytest.approx(5.0 - 0.1, abs=1e-3)
    assert fixture.notices[-1] == (
        "3 steps in a row had no finite loss: the weights of step 0 are back, and training goes on "
        "with the data that comes next."
    )


def test_when_going_back_does_not_help_the_run_fails_and_names_step_and_documents() -> None:
    fixture = Fixture(nan_in(range(2, 100)), total_steps=12)
    with pytest.raises(JobFailedError, match=r"not finite at step 3, .* rows") as caught:
        fixture.trainer.run()
    assert caught.value.code is FailureCode.DIVERGED
    assert fixture.calls == 8
    assert fixture.saved == [(4, True, False)], "the weights of step 4 were finite ones"


def test_a_saved_checkpoint_allows_going_back_once_more() -> None:
    bad = {1, 2, 3, 9, 10, 11}
    fixture = Fixture(lambda step: math.nan if step in bad else 1.0, total_steps=12)
    assert fixture.trainer.run() is Outcome.FINISHED
    assert fixture.rolled_back_at == [4, 12]


def test_an_asynchronous_run_keeps_the_weights_and_learns_of_it_when_it_next_looks() -> None:
    """As on a GPU: nobody waits at the bad step, and only that step is left out."""
    fixture = Fixture(nan_in(range(2, 3)), total_steps=6, log_interval=8, looks_each_step=False)
    assert fixture.trainer.run() is Outcome.FINISHED
    assert fixture.weight == pytest.approx(1.0 - 5 * 0.1, abs=1e-5)
    assert fixture.notices == [
        "The loss or its gradient is not finite at step 3, whose batch holds rows [0, 1]. "
        "1 step(s) were passed over.",
    ]


def test_an_asynchronous_run_that_stays_bad_fails_at_its_second_look() -> None:
    fixture = Fixture(nan_in(range(2, 99)), total_steps=20, log_interval=6, looks_each_step=False)
    fixture.trainer._plan = replace(fixture.trainer._plan, eval_interval=99, save_interval=99)
    with pytest.raises(JobFailedError, match="not finite at step 3, "):
        fixture.trainer.run()
    assert fixture.calls == 12


def test_an_infinite_gradient_of_a_finite_loss_counts_too() -> None:
    fixture = Fixture(total_steps=1)
    weight = fixture.model.weight
    fixture.trainer._loss = TeamLoss(
        fixture.model, lambda batch: (weight.sum() - weight.sum().detach()).sqrt(), ALONE
    )
    fixture.trainer.run()
    assert fixture.weight == 1.0
    assert "not finite at step 1" in fixture.notices[0]


def test_a_run_that_gets_no_better_stops_early() -> None:
    losses = {4: 2.0, 8: 1.5, 12: 1.6, 16: 1.7, 20: 1.0}
    fixture = Fixture(total_steps=40, patience=2, validation=losses.__getitem__)
    assert fixture.trainer.run() is Outcome.FINISHED
    assert fixture.saved == [(4, True, False), (8, True, False), (12, False, False),
                             (16, False, False), (16, False, True)]  # fmt: skip
    assert fixture.notices == [
        "Stopped after step 16 of 40: the validation loss was no lower in 2 evaluations."
    ]


def test_with_early_stopping_each_new_best_is_saved_between_the_intervals_too() -> None:
    fixture = Fixture(total_steps=10, patience=9, validation=lambda step: 10.0 - step)
    fixture.trainer._plan = replace(fixture.trainer._plan, save_interval=100)
    fixture.trainer.run()
    assert fixture.saved == [(4, True, False), (8, True, False), (10, True, True)]


def test_a_log_line_says_what_the_run_costs() -> None:
    fixture = Fixture(total_steps=5)
    fixture.trainer.run()
    lines = [x for x in fixture.lines if isinstance(x, MetricsLine) and x.series == "train"]
    assert [line.values["flops"] for line in lines] == [7 * 20 * step for step in range(1, 6)]
    assert all(line.values["peak_memory_bytes"] > 1 << 20 for line in lines)
    assert [line.values["checkpoint_stall_seconds"] > 0 for line in lines] == [
        *[False] * 4, True,
    ]  # fmt: skip
    assert all(line.values["data_wait_seconds"] > 0 for line in lines)
    assert "mfu" not in lines[0].values


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
