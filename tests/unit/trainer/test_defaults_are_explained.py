"""docs/training.md gives every setting of training a row, with the default that the spec has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.contracts.training_specs import FinetuneSpec, TrainSpec

PAGE = Path(__file__).parents[3] / "docs" / "training.md"
GIVEN_BY_THE_USER = {"model", "publish", "tokens", "checkpoint", "resume_from"}


def explained() -> dict[str, str]:
    """The settings in the first cell of each row under "Defaults", with the row's second cell."""
    section = PAGE.read_text("utf-8").split("\n## Defaults\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| ")]
    return {name: value for names, value in rows for name in re.findall(r"`(\w+)`", names)}


@pytest.mark.parametrize("spec", [TrainSpec, FinetuneSpec])
def test_every_setting_has_a_row(spec: type[TrainSpec | FinetuneSpec]) -> None:
    assert set(spec.model_fields) - GIVEN_BY_THE_USER - set(explained()) == set()


@pytest.mark.parametrize(
    "name", ["vocab_size", "num_layers", "d_model", "num_heads", "d_ff", "eval_interval", "seed"]
)
def test_the_row_has_the_spec_s_default(name: str) -> None:
    assert str(TrainSpec.model_fields[name].default) in explained()[name].replace(",", "")
