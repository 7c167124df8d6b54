"""The loss of the fixed text is the model's own, and no copy of the weights is needed for it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from shared.model.canary import CANARY_TEXT, canary_ids, canary_loss
from tests.support.models import small_tokenizer
from tests.support.serving import SMALL_MODELS, random_model


@pytest.mark.parametrize("family", ["arcee", "llama"])
def test_it_is_the_mean_cross_entropy_of_the_text(family: str) -> None:
    model, tokenizer = random_model(SMALL_MODELS[family]), small_tokenizer()
    ids = [tokenizer.end_id, *tokenizer.encode(CANARY_TEXT)][:64]
    assert len(ids) == 64
    logits = model(torch.tensor([ids]))[0]
    expected = F.cross_entropy(logits[:-1], torch.tensor(ids[1:])).detach()
    found = canary_loss(model.config, model.state_dict(), tokenizer)
    assert found == pytest.approx(float(expected), rel=1e-6)


def test_a_short_context_takes_as_much_as_it_holds() -> None:
    config = SMALL_MODELS["arcee"].model_copy(update={"context_length": 16})
    assert len(canary_ids(small_tokenizer(), config)) == 16


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_have_none(value: float) -> None:
    model = random_model(SMALL_MODELS["arcee"])
    state = {**model.state_dict(), "model.norm.weight": torch.full((64,), value)}
    assert canary_loss(model.config, state, small_tokenizer()) is None
