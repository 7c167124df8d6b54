"""Twenty losses of each recipe, in a tiny shape, as they were when they were last looked at.

A change that is meant changes them: `python -m tests.parity.test_golden_losses` writes them anew.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.training import TINY, make_run, run_training, tiny_spec, tiny_tokens

GOLDEN = Path(__file__).parents[1] / "golden" / "losses.json"
RECIPES = Path(__file__).parents[2] / "ryangpt" / "recipes"
NAMES = ("quickstart", "ryan-gpt", "ryan-gpt-upstream", "ryan-gpt-fast")
KEPT = ("context_length", "num_layers", "d_model", "num_heads", "batch_size", "max_steps",
        "gradient_accumulation_steps", "warmup_steps", "eval_interval", "save_interval",
        "log_interval", "eval_tokens", "sample_prompts", "device", "model")  # fmt: skip
"""What stays tiny; everything else is the recipe's."""


def spec_of(name: str) -> Any:
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text("utf-8"))
    given = dict(recipe["jobs"]["train"]["spec"])
    width = given["d_ff"] * TINY["d_model"] // given["d_model"]
    given = {key: value for key, value in given.items() if key not in KEPT and key != "tokens"}
    return tiny_spec(**{**given, "d_ff": width})


def losses_of(name: str, folder: Path) -> list[float]:
    tokens = tiny_tokens(folder / "tokens")
    return run_training(make_run(folder / "run", spec_of(name), {"tokens": tokens})).losses()


@pytest.mark.parametrize("name", NAMES)
def test_the_first_twenty_losses(name: str, tmp_path: Path) -> None:
    expected = json.loads(GOLDEN.read_text())[name]
    losses = losses_of(name, tmp_path)
    assert losses[0] == pytest.approx(math.log(300), abs=0.1)
    assert losses == pytest.approx(expected, abs=2e-3)
    assert len(expected) == 20


if __name__ == "__main__":
    found = {}
    for recipe_name in NAMES:
        with tempfile.TemporaryDirectory() as temporary:
            found[recipe_name] = losses_of(recipe_name, Path(temporary))
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
