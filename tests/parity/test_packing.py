"""Packed dialogues compute what each would compute alone, and nothing of each other."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.packing import Dialogue, PackedData, pack, read_dialogues
from shared.base.errors import JobFailedError
from shared.contracts.model_config import ModelConfig
from shared.model.loss import IGNORED, linear_cross_entropy, token_losses
from shared.model.transformer import Transformer, initialize
from shared.text.token_set import TokenSplit
from tests.support.models import write_dialogues

CPU = torch.device("cpu")
CONTEXT = 24
CONFIG = ModelConfig(
    vocab_size=300, context_length=CONTEXT, num_layers=2, d_model=64, num_heads=2, d_ff=96
)


def dialogue(length: int, seed: int) -> Dialogue:
    generator = np.random.default_rng(seed)
    mask = (generator.random(length) < 0.5).astype(np.uint8)
    mask[-1] = 1
    return Dialogue(ids=generator.integers(3, 300, length).astype(np.uint16), mask=mask)


def scrambled_model() -> Transformer:
    model = Transformer(CONFIG)
    initialize(model, seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


DIALOGUES = [dialogue(length, seed) for seed, length in enumerate((7, 12, 5, 20, 9, 25, 3))]


def packed(dialogues: list[Dialogue], loss_on: Literal["assistant", "all"]) -> PackedData:
    return PackedData(
        dialogues, split="train", context=CONTEXT, seed=0, device=CPU, loss_on=loss_on
    )


def learned_targets(one: Dialogue, loss_on: str) -> npt.NDArray[np.bool_]:
    """Which of ids[1:] count, (n - 1,)."""
    return (one.mask[1:] > 0) | (loss_on == "all")


def summed_losses_alone(model: Transformer, dialogues: list[Dialogue], loss_on: str) -> float:
    """The slow readable twin: one dialogue at a time, plain causal attention."""
    total = 0.0
    for one in dialogues:
        ids = torch.from_numpy(one.ids.astype(np.int64))[None]
        losses = token_losses(model.hidden(ids[:, :-1]), model.head_weight, ids[:, 1:])[0]
        total += float((losses * torch.from_numpy(learned_targets(one, loss_on))).sum())
    return total


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
@torch.no_grad()
def test_packed_loss_equals_the_dialogues_one_by_one(loss_on: Literal["assistant", "all"]) -> None:
    model, data = scrambled_model(), packed(DIALOGUES, loss_on)
    rows = np.arange(data.num_sequences)
    batch = data.batch(rows * 0, rows)
    assert data.num_sequences == 4
    hidden = model.hidden(batch.ids, batch.positions, batch.mask)
    loss = float(linear_cross_entropy(hidden, model.head_weight, batch.targets))
    assert loss == pytest.approx(summed_losses_alone(model, DIALOGUES, loss_on), rel=1e-5)


@torch.no_grad()
def test_changing_one_dialogue_changes_no_logit_of_another() -> None:
    model, data = scrambled_model(), packed(DIALOGUES, "all")
    rows = np.arange(data.num_sequences)
    batch = data.batch(rows * 0, rows)
    before = model(batch.ids, batch.positions, batch.mask)
    segments = data._segments
    for row in range(data.num_sequences):
        for segment in segments[row].unique().tolist():
            changed = batch.ids.clone()
            inside = torch.zeros_like(segments, dtype=torch.bool)
            inside[row] = segments[row] == segment
            changed[inside] = (changed[inside] + 1) % 300
            after = model(changed, batch.positions, batch.mask)
            assert torch.equal(after[~inside], before[~inside])
            assert not torch.equal(after[inside], before[inside])


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
def test_only_learned_tokens_have_a_gradient(loss_on: Literal["assistant", "all"]) -> None:
    """A target outside the mask, and padding, contribute nothing to the gradient of any logit."""
    model, data = scrambled_model(), packed(DIALOGUES, loss_on)
    rows = np.arange(data.num_sequences)
    batch = data.batch(rows * 0, rows)
    hidden = model.hidden(batch.ids, batch.positions, batch.mask).detach().requires_grad_()
    linear_cross_entropy(hidden, model.head_weight, batch.targets).backward()
    assert hidden.grad is not None
    touched = hidden.grad.abs().sum(-1) > 0
    assert torch.equal(touched, batch.targets != IGNORED)
    learned = sum(int(learned_targets(one, loss_on).sum()) for one in DIALOGUES)
    assert int(touched.sum()) == learned
    assert data.counts(rows) == (learned, sum(len(one.ids) - 1 for one in DIALOGUES))


def test_with_the_loss_on_all_tokens_only_padding_is_no_target() -> None:
    one = Dialogue(ids=np.array([1, 50, 2, 60, 0], np.uint16), mask=np.array([0, 0, 0, 1, 1], "u1"))
    twice, row = [one, one], np.zeros(1, np.int64)
    every, learned = (packed(twice, loss_on).batch(row, row) for loss_on in ("all", "assistant"))
    padding, none = [IGNORED] * (CONTEXT - 8), IGNORED
    assert every.targets.tolist() == [[50, 2, 60, 0] * 2 + padding]
    assert learned.targets.tolist() == [[none, none, 60, 0] * 2 + padding]
    assert torch.equal(every.ids, learned.ids)


@given(st.lists(st.integers(1, 30), max_size=60))
def test_packing_loses_and_overfills_nothing(lengths: list[int]) -> None:
    rows = pack(lengths, 30)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    loads = sorted(sum(lengths[item] for item in row) for row in rows)
    assert all(0 < load <= 30 for load in loads)
    # No two rows could have been one, except where the second was opened after the first filled up.
    assert sum(load <= 15 for load in loads) <= 1


def test_best_fit_takes_the_fullest_row_that_has_room() -> None:
    assert pack([6, 8, 4, 2], 10) == [[0, 2], [1, 3]]


def test_long_dialogues_are_cut_and_those_without_an_answer_left_out(tmp_path: Path) -> None:
    long = ([1, *range(3, 40), 0], [0] * 10 + [1] * 29)
    late = ([1, *range(3, 40), 0], [0] * 30 + [1] * 9)
    short = ([1, 5, 2, 6, 0], [0, 0, 0, 1, 1])
    folder = write_dialogues(tmp_path / "tokens", [long, late, short], [short])
    dialogues, dropped = read_dialogues(TokenSplit(folder, "train"), context=CONTEXT)
    assert [len(one.ids) for one in dialogues] == [CONTEXT + 1, 5]
    assert (dropped.cut, dropped.empty) == (2, 1)


def test_a_split_without_dialogues_is_an_error() -> None:
    with pytest.raises(JobFailedError, match="no dialogue with an assistant's turn"):
        packed([], "assistant")
