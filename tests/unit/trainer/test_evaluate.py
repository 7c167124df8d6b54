"""Held-out figures against their definition, and greedy samples against the slow way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from services.trainer.evaluate import (
    Evaluator,
    ValidationDialogues,
    ValidationWindows,
    complete,
)
from services.trainer.packing import Dialogue, PackedData
from shared.contracts.model_config import ModelConfig
from shared.model.transformer import Transformer, initialize

CPU = torch.device("cpu")
CONFIG = ModelConfig(
    vocab_size=300, context_length=8, num_layers=2, d_model=64, num_heads=2, d_ff=96
)
TOKEN_BYTES = [0, 0, 0, *[1 + token % 4 for token in range(297)]]


@pytest.fixture
def model() -> Transformer:
    model = Transformer(CONFIG)
    initialize(model, seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


@torch.no_grad()
def losses_of(model: Transformer, ids: list[int]) -> list[float]:
    """Loss of each token but the first, one plain forward pass."""
    logits = model(torch.tensor([ids[:-1]]))[0]
    return F.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none").tolist()


def test_windows_are_contiguous_and_bits_per_byte_leave_special_tokens_out(
    model: Transformer,
) -> None:
    stream = [5, 17, 250, 0, 99, 41, 42, 43, 44, 0, 120, 7, 8, 9, 200, 201, 202, 0, 6, 5]
    windows = [stream[0:9], stream[8:17], stream[16:20]]
    losses = [loss for window in windows for loss in losses_of(model, window)]
    predicted = stream[1:]
    text_nats = sum(l for l, token in zip(losses, predicted, strict=True) if token > 2)  # noqa: E741
    text_bytes = sum(TOKEN_BYTES[token] for token in predicted)

    data = ValidationWindows(np.array(stream, np.uint16), context=8, device=CPU)
    found = Evaluator(data, token_bytes=TOKEN_BYTES, device=CPU)(model)
    assert found is not None
    assert found["validation_loss"] == pytest.approx(sum(losses) / 19, rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(text_nats / math.log(2) / text_bytes, rel=1e-6)
    assert found["validation_bytes"] == text_bytes
    assert set(found) == {"validation_loss", "bits_per_byte", "validation_bytes"}


def test_an_assistant_has_two_losses(model: Transformer) -> None:
    dialogues = [
        Dialogue(ids=np.array(ids, np.uint16), mask=np.array(mask, np.uint8))
        for ids, mask in (
            ([1, 50, 2, 60, 61, 0], [0, 0, 0, 1, 1, 1]),
            ([1, 70, 71, 2, 80, 0], [0, 0, 0, 0, 1, 1]),
        )
    ]
    every = [losses_of(model, one.ids.tolist()) for one in dialogues]
    learned = every[0][2:] + every[1][3:]
    packed = PackedData(dialogues, split="validation", context=8, seed=0, device=CPU)
    data = ValidationDialogues(packed, context=8, limit=1000)
    found = Evaluator(data, token_bytes=TOKEN_BYTES, device=CPU, assistant=True)(model)
    assert found is not None
    assert found["validation_loss"] == pytest.approx(sum(learned) / 5, rel=1e-6)
    assert found["assistant_loss"] == found["validation_loss"]
    assert found["all_token_loss"] == pytest.approx(sum(map(sum, every)) / 10, rel=1e-6)
    assert found["validation_bytes"] == sum(TOKEN_BYTES[t] for t in (60, 61, 80))


def test_an_interrupted_evaluation_has_no_result(model: Transformer) -> None:
    data = ValidationWindows(np.arange(20, dtype=np.uint16), context=8, device=CPU)
    evaluator = Evaluator(data, token_bytes=TOKEN_BYTES, device=CPU)
    assert evaluator(model, interrupted=lambda: True) is None


@torch.no_grad()
def slow_greedy(model: Transformer, prompt: list[int], count: int, end_id: int) -> list[int]:
    ids = list(prompt)
    while len(ids) - len(prompt) < count and len(ids) < CONFIG.context_length:
        token = int(model(torch.tensor([ids]))[0, -1].argmax())
        if token == end_id:
            break
        ids.append(token)
    return ids[len(prompt) :]


def test_batched_samples_equal_one_prompt_at_a_time(model: Transformer) -> None:
    prompts = [[5], [7, 8, 9], [250, 3]]
    free = [slow_greedy(model, prompt, 5, -1) for prompt in prompts]
    assert complete(model, prompts, max_tokens=5, end_id=-1) == free
    assert [len(ids) for ids in free] == [5, 5, 5]
    end_id = free[0][2]
    ended = [slow_greedy(model, prompt, 5, end_id) for prompt in prompts]
    assert complete(model, prompts, max_tokens=5, end_id=end_id) == ended
    assert len(ended[0]) < 5


def test_a_prompt_that_leaves_no_room_keeps_its_end(model: Transformer) -> None:
    (found,) = complete(model, [list(range(20, 40))], max_tokens=5, end_id=-1)
    assert found == slow_greedy(model, [37, 38, 39], 5, -1)


def test_an_empty_prompt_begins_at_a_document_start(model: Transformer) -> None:
    (found,) = complete(model, [[]], max_tokens=3, end_id=0)
    assert found == slow_greedy(model, [0], 3, 0)
