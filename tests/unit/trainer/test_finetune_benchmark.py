"""The finetuning benchmark: recipes, which checkpoint counts, and how runs are compared."""

from __future__ import annotations

import math
from argparse import Namespace
from typing import Any

import pytest

from benchmarks.finetune import REFERENCE, finetune_spec, published_step, summary

OPTIONS = Namespace(batch=4, eval_tokens=100, device="cpu")


def test_a_recipe_is_its_preset_s_chat_job_but_for_the_batch() -> None:
    reference = finetune_spec(REFERENCE, OPTIONS, seed=7)
    assert (reference.lr, reference.min_lr, reference.max_steps) == (3e-5, 3e-6, 1000)
    assert (reference.loss_on, reference.publish, reference.schedule) == ("all", "final", "cosine")
    assert (reference.batch_size, reference.gradient_accumulation_steps) == (4, 1)
    assert (reference.seed, reference.early_stop_evaluations) == (7, None)
    changed = finetune_spec("ryan-gpt-fast+lr=0.002,epochs=null,max_steps=77", OPTIONS, seed=7)
    assert (changed.lr, changed.min_lr, changed.max_steps) == (0.002, 0.0, 77)
    assert changed.loss_on == "all"


def test_the_last_or_the_best_checkpoint_counts() -> None:
    metrics = {
        20: {"validation_loss": 2.0},
        40: {"validation_loss": 1.5},
        60: {"validation_loss": 1.7},
    }
    assert published_step(metrics, finetune_spec(REFERENCE, OPTIONS, seed=0)) == 60
    assert published_step(metrics, finetune_spec("ryan-gpt-fast", OPTIONS, seed=0)) == 40


def test_recipes_are_compared_seed_by_seed() -> None:
    def run(recipe: str, seed: int, loss: float) -> dict[str, Any]:
        losses = {"all_token_loss": loss, "assistant_loss": 2 * loss}
        return {"recipe": recipe, "seed": seed, "steps": 10, **losses}

    losses = {"first": (4.0, 5.0, 6.0), "second": (3.0, 4.0, 5.5)}
    runs = [run(name, seed, loss) for name, of in losses.items() for seed, loss in enumerate(of)]
    rows = summary(runs)
    assert rows["first"]["all_token_loss"] == (5.0, pytest.approx(4.30 / math.sqrt(3)))
    assert rows["first"]["all_token_loss_difference"] == (0.0, 0.0)
    mean, half = rows["second"]["all_token_loss_difference"]
    assert mean == pytest.approx(-2.5 / 3)
    assert half == pytest.approx(4.30 * math.sqrt(1 / 12) / math.sqrt(3))
    assert rows["second"]["assistant_loss_difference"][0] == pytest.approx(-5 / 3)
