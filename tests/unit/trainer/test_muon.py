"""Batched Muon against torch's own, what each parameter is updated by, and a held step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from services.trainer.muon import Muon, MuonWithAdamW, orthogonalized
from services.trainer.optim import make_optimizer, set_rate
from shared.contracts.model_config import ModelConfig
from shared.model.transformer import Transformer, initialize

SHAPES = [(64, 64), (96, 64), (64, 96), (64, 64), (64, 96)]
CONFIG = ModelConfig(
    vocab_size=300, context_length=16, num_layers=2, d_model=64, num_heads=2, d_ff=96,
    tie_embeddings=False,
)  # fmt: skip


def matrices(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def test_ten_steps_equal_torchs_muon_within_bfloat16() -> None:
    ours, theirs = matrices(1), matrices(1)
    start = [parameter.detach().clone() for parameter in ours]
    batched = Muon(ours, weight_decay=0.1)
    looped = torch.optim.Muon(theirs, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for optimizer in (batched, looped):
        set_rate(optimizer, 0.02)
    for step in range(10):
        for mine, other, gradient in zip(ours, theirs, matrices(2 + step), strict=True):
            mine.grad, other.grad = gradient.detach().clone(), gradient.detach().clone()
        batched.step()
        looped.step()
    for mine, other, first in zip(ours, theirs, start, strict=True):
        moved = (other - first).norm()
        assert float((mine - other).norm() / moved) < 0.01
        torch.testing.assert_close(
            batched.state[mine]["momentum_buffer"], looped.state[other]["momentum_buffer"]
        )


def test_an_orthogonalized_matrix_has_singular_values_near_one() -> None:
    stack = torch.randn(3, 32, 64, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalized(stack))
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3


def test_hidden_matrices_go_to_muon_and_all_else_to_adamw() -> None:
    model = Transformer(CONFIG)
    optimizer = make_optimizer(model, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, kind="muon")
    names = {parameter: name for name, parameter in model.named_parameters()}
    muon, head, undecayed = (
        {names[parameter] for parameter in group["params"]} for group in optimizer.param_groups
    )
    assert len(muon) == 2 * 6
    assert all("_proj" in name for name in muon)
    assert head == {"lm_head.weight"}
    assert undecayed | head | muon == set(names.values())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0]


@pytest.mark.parametrize("held", [False, True])
def test_a_held_step_changes_no_weight_and_no_state(held: bool) -> None:
    model = Transformer(CONFIG)
    initialize(model, seed=0, scheme="xavier")
    optimizer = make_optimizer(model, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, kind="muon")
    assert isinstance(optimizer, MuonWithAdamW)
    set_rate(optimizer, 0.01)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan") if held else 0.5)
    optimizer.found_inf = torch.tensor(float(held))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer.step()
    same = {name: torch.equal(before[name], x) for name, x in model.state_dict().items()}
    assert set(same.values()) == {held}
    for parameter in model.parameters():
        for key, value in optimizer.state[parameter].items():
            assert bool(value.any()) is not held, key
