"""A checkpoint of the reference implementation, taken in: its logits and its greedy text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.contracts.names import SPECIAL_TOKENS
from shared.contracts.progress import CheckpointLine
from shared.model.transformer import Transformer
from shared.model.weights import load_model
from shared.text.foreign_vocabulary import read_reference_vocabulary
from shared.text.tokenizer import Tokenizer
from tests.unit.trainer.test_take_in import files_of, taken_in

Taken = tuple[Transformer, Tokenizer, dict[str, Any], tuple[int | None, ...]]


@pytest.fixture(scope="module")
def taken(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Taken:
    """Model and tokenizer as served, what is expected, and the old id of each new one."""
    folder = shared_data / "reference"
    reported = taken_in(tmp_path_factory.mktemp("taken"), files_of(folder))
    (line,) = [entry for entry in reported if isinstance(entry, CheckpointLine)]
    assert (line.meta.step, line.meta.model.num_parameters) == (60, 590_464)
    rows = read_reference_vocabulary(folder / "vocab.json", folder / "merges.txt").rows
    expected = json.loads((folder / "expected.json").read_text())
    return load_model(Path(line.path)).eval(), Tokenizer.load(Path(line.path)), expected, rows


@torch.no_grad()
def test_logits_and_greedy_text_equal_the_reference(taken: Taken) -> None:
    model, _, expected, rows = taken
    new_ids = {old: new for new, old in enumerate(rows)}
    assert len(expected["cases"]) == 5
    for case in expected["cases"]:
        ids = [new_ids[old] for old in case["ids"]]
        logits = model(torch.tensor([ids]))[0, -1]
        theirs = torch.tensor(case["last_logits"])[torch.tensor(rows)]
        assert (logits - theirs).abs().max() < 1e-4
        for _ in case["greedy_16"]:
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
        assert [rows[new] for new in ids[len(case["ids"]) :]] == case["greedy_16"]


def test_text_gets_the_ids_that_the_reference_gives_it(taken: Taken) -> None:
    _, tokenizer, expected, rows = taken
    plain = [
        case
        for case in expected["cases"]
        if not any(token in case["prompt"] for token in SPECIAL_TOKENS)
    ]
    assert len(plain) == 4
    for case in plain:
        assert [rows[new] for new in tokenizer.encode(case["prompt"])] == case["ids"]
