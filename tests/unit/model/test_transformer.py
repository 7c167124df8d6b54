"""The model's size, its first loss, and that it never looks ahead."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch

from shared.contracts.model_config import ModelConfig
from shared.model.loss import linear_cross_entropy
from shared.model.transformer import Transformer, initialize

TINY = ModelConfig(
    vocab_size=300, context_length=32, num_layers=2, d_model=64, num_heads=2, d_ff=96
)


def make(config: ModelConfig, seed: int = 0) -> Transformer:
    model = Transformer(config)
    initialize(model, seed=seed)
    return model


def test_the_reference_preset_has_exactly_its_parameters() -> None:
    model = Transformer(ModelConfig())
    assert sum(p.numel() for p in model.parameters()) == 12_496_960


@pytest.mark.parametrize("family", ["arcee", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_config_counts_parameters_as_the_model_has_them(family: str, tied: bool) -> None:
    config = TINY.model_copy(update={"family": family, "tie_embeddings": tied})
    assert sum(p.numel() for p in Transformer(config).parameters()) == config.num_parameters


@pytest.mark.parametrize("scheme", ["xavier", "zero_residual"])
@pytest.mark.parametrize(
    "config",
    [ModelConfig(), TINY, TINY.model_copy(update={"tie_embeddings": False, "family": "llama"})],
)
def test_the_first_loss_is_that_of_a_uniform_guess(
    config: ModelConfig, scheme: Literal["xavier", "zero_residual"]
) -> None:
    ids = torch.randint(0, config.vocab_size, (2, 33), generator=torch.Generator().manual_seed(1))
    model = Transformer(config)
    initialize(model, seed=0, scheme=scheme)
    with torch.no_grad():
        total = linear_cross_entropy(model.hidden(ids[:, :-1]), model.head_weight, ids[:, 1:])
    assert abs(float(total) / 64 - math.log(config.vocab_size)) < 0.1


def test_first_weights_follow_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = make(TINY, seed=5).state_dict()
    before = torch.get_rng_state()
    second_model = Transformer(TINY)
    torch.set_rng_state(before)
    initialize(second_model, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[k], v) for k, v in second_model.state_dict().items())
    other = make(TINY, seed=6).state_dict()
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_the_schemes_differ_in_the_matrices_that_write_to_the_residual_stream() -> None:
    model = Transformer(ModelConfig())
    initialize(model, seed=0, scheme="xavier")
    block = model.model.layers[0]
    for matrix, fans in ((block.self_attn.o_proj, 640), (block.mlp.down_proj, 1600)):
        assert float(matrix.weight.std()) == pytest.approx(math.sqrt(2 / fans), rel=0.02)
        assert float(matrix.weight.abs().max()) <= 3 * math.sqrt(2 / fans)
    initialize(model, seed=0, scheme="zero_residual")
    assert not block.self_attn.o_proj.weight.any()
    assert not block.mlp.down_proj.weight.any()


@torch.no_grad()
def test_a_later_token_changes_no_earlier_logit() -> None:
    model = make(TINY)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    ids = torch.randint(0, 300, (1, 32))
    changed = ids.clone()
    changed[0, 20] = (ids[0, 20] + 1) % 300
    before, after = model(ids)[0], model(changed)[0]
    assert torch.equal(before[:20], after[:20])
    assert not torch.equal(before[20:], after[20:])


@torch.no_grad()
def test_explicit_positions_equal_the_default_ones() -> None:
    model, ids = make(TINY), torch.randint(0, 300, (2, 16))
    positions = torch.arange(16).expand(2, 16)
    torch.testing.assert_close(model(ids), model(ids, positions))


@torch.no_grad()
def test_bfloat16_compute_keeps_float32_weights_and_nearly_the_logits() -> None:
    model, ids = make(TINY), torch.randint(0, 300, (2, 16))
    exact = model(ids)
    model.compute_dtype = torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    rough = model(ids)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05)
