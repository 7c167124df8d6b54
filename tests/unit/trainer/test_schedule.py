"""Learning rates at exact points, and the plan that resolves `auto`."""

from __future__ import annotations

from typing import Any

import pytest

from services.trainer.plan import make_plan
from services.trainer.schedule import Schedule
from shared.base.errors import JobFailedError
from shared.base.ids import IdPrefix, new_id
from shared.contracts.model_config import ModelConfig
from shared.contracts.training_specs import FinetuneSpec
from tests.support.training import tiny_spec

MODEL = ModelConfig(
    vocab_size=300, context_length=16, num_layers=2, d_model=64, num_heads=2, d_ff=96
)


def schedule(shape: str, *, warmup: int = 4, total: int = 44) -> Schedule:
    return Schedule(shape=shape, peak=1.0, low=0.1, warmup_steps=warmup, total_steps=total)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", ["cosine", "wsd", "constant"])
def test_warmup_is_linear_and_never_zero(shape: str) -> None:
    rates = [schedule(shape).rate(step) for step in range(4)]
    assert rates == [0.25, 0.5, 0.75, 1.0]


def test_cosine_is_halfway_in_the_middle_and_low_at_the_last_step() -> None:
    cosine = schedule("cosine")
    assert cosine.rate(23) == pytest.approx(0.55)
    assert cosine.rate(43) == pytest.approx(0.1)


def test_wsd_is_flat_until_the_last_fifth() -> None:
    wsd = schedule("wsd", warmup=4, total=50)
    assert {wsd.rate(step) for step in range(4, 40)} == {1.0}
    assert wsd.rate(40) == pytest.approx(0.91)
    assert wsd.rate(49) == pytest.approx(0.1)


def test_constant_stays() -> None:
    assert {schedule("constant").rate(step) for step in range(3, 44)} == {1.0}


def test_warmup_takes_a_tenth_at_most() -> None:
    short = schedule("constant", warmup=2000, total=20)
    assert [short.rate(step) for step in range(3)] == [0.5, 1.0, 1.0]


def test_one_step_alone_runs_at_the_low_rate() -> None:
    assert schedule("cosine", warmup=10, total=1).rate(0) == pytest.approx(0.1)


def finetune_spec(**changes: Any) -> FinetuneSpec:
    return FinetuneSpec(
        model="m",
        checkpoint=new_id(IdPrefix.CHECKPOINT),
        tokens=new_id(IdPrefix.DATASET),
        **changes,
    )


def test_numbers_pass_through() -> None:
    plan = make_plan(tiny_spec(), MODEL, 100)
    assert (plan.batch_size, plan.accumulation, plan.total_steps) == (4, 2, 20)
    assert (plan.schedule.peak, plan.schedule.low) == (3e-3, 3e-4)


def test_auto_steps_are_twenty_tokens_a_parameter() -> None:
    plan = make_plan(tiny_spec(max_steps="auto"), MODEL, 100)
    tokens_per_step = 4 * 2 * 16
    assert plan.total_steps == -(-20 * MODEL.num_parameters // tokens_per_step)


def test_auto_steps_of_finetuning_are_three_epochs() -> None:
    spec = finetune_spec(max_steps="auto", batch_size=5, gradient_accumulation_steps=2)
    assert make_plan(spec, MODEL, 100).total_steps == 30


def test_epochs_count_sequences() -> None:
    spec = tiny_spec(max_steps=None, epochs=2.5)
    assert make_plan(spec, MODEL, 100).total_steps == 31


def test_epochs_that_fill_no_step_are_refused() -> None:
    with pytest.raises(JobFailedError, match="do not fill one step"):
        make_plan(tiny_spec(max_steps=None, epochs=0.01), MODEL, 100)


def test_auto_batch_makes_32768_tokens_a_step_when_there_is_enough_text() -> None:
    spec = tiny_spec(batch_size="auto", gradient_accumulation_steps=4)
    assert make_plan(spec, MODEL, 1_000_000).sequences_per_step * 16 == 32_768
    assert make_plan(spec, MODEL, 640).sequences_per_step == 640 // 16


def test_auto_rate_falls_with_the_square_root_of_the_width() -> None:
    narrow = make_plan(tiny_spec(lr="auto"), MODEL, 100).schedule.peak
    wide_model = MODEL.model_copy(update={"d_model": 256})
    wide = make_plan(tiny_spec(lr="auto"), wide_model, 100).schedule.peak
    assert narrow == pytest.approx(3e-3 * 2**0.5)
    assert narrow == pytest.approx(2 * wide)
    finetune = make_plan(finetune_spec(lr="auto", batch_size=4), MODEL, 100).schedule.peak
    assert finetune == pytest.approx(narrow / 3)


def test_the_low_rate_is_never_above_an_auto_peak() -> None:
    plan = make_plan(tiny_spec(lr="auto", min_lr=0.5), MODEL, 100)
    assert plan.schedule.low == plan.schedule.peak
