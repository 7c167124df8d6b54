"""The arithmetic of the quality benchmark: crossings, intervals, and what a recipe becomes."""

from __future__ import annotations

import math
from argparse import Namespace

import pytest

from benchmarks.quality import Run, interval, spec_of, summary, tokens_to_reach

CURVE = [(100, 4.0), (200, 3.0), (400, 2.0)]


@pytest.mark.parametrize(
    ("goal", "tokens"), [(5.0, 100), (4.0, 100), (3.5, 150), (2.5, 300), (2.0, 400), (1.9, None)]
)
def test_a_goal_is_reached_between_two_points(goal: float, tokens: float | None) -> None:
    assert tokens_to_reach(CURVE, goal) == tokens


def test_an_interval_is_students() -> None:
    mean, half = interval([1.0, 2.0, 3.0])
    assert (mean, half) == (2.0, pytest.approx(4.30 / math.sqrt(3)))
    assert math.isnan(interval([1.0])[1])


def test_recipes_are_compared_seed_by_seed() -> None:
    runs = [
        Run(recipe=recipe, seed=seed, curve=[(100, 9.0), (200, final)], seconds=1.0)
        for recipe, finals in {"reference": (4.0, 8.0), "fast": (2.0, 4.0)}.items()
        for seed, final in enumerate(finals)
    ]
    fast = summary(runs)["fast"]
    assert (fast["bits_per_byte"], fast["ratio"], fast["ratio_interval_95"]) == (3.0, 0.5, 0.0)
    shares = fast["share_of_tokens_to_the_references_final"]
    assert shares == [pytest.approx((100 + 500 / 7) / 200), pytest.approx((100 + 100 / 5) / 200)]


def test_a_recipe_keeps_all_but_shape_batch_and_length() -> None:
    options = Namespace(steps=400, batch=8, evaluations=4, eval_tokens=100, device="cpu")
    spec = spec_of("ryan-gpt-fast+lr=0.004", options, seed=7)
    assert (spec.optimizer, spec.init, spec.schedule) == ("muon", "zero_residual", "wsd")
    assert (spec.lr, spec.warmup_steps, spec.max_steps, spec.seed) == (0.004, 10, 400, 7)
    assert (spec.batch_size, spec.eval_interval) == (8, 100)
    assert spec.model_config_for(4096).num_parameters == 2_557_632
