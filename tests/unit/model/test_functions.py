"""Hand-written gradients against autograd's of the plain formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shared.model.attention import causal_attention, packed_causal_mask
from shared.model.functions import relu_squared, rms_norm, rotate
from shared.model.loss import CHUNK_TOKENS, IGNORED, linear_cross_entropy, token_losses


def random(*shape: int, seed: int = 0) -> Tensor:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return tensor.requires_grad_()


def assert_same(ours: Callable[..., Tensor], plain: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Values and all gradients agree to 1e-5."""
    output, expected = ours(*inputs), plain(*inputs)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    weights = random(*expected.shape, seed=9).detach() if expected.dim() else torch.tensor(0.7)
    found = torch.autograd.grad(output, inputs, weights)
    wanted = torch.autograd.grad(expected, inputs, weights)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def plain_norm(x: Tensor, weight: Tensor) -> Tensor:
    return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5))


def plain_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def test_relu_squared() -> None:
    assert_same(relu_squared, lambda x: F.relu(x) ** 2, random(3, 5, 8))


def test_rms_norm() -> None:
    assert_same(lambda x, w: rms_norm(x, w, 1e-5), plain_norm, random(2, 3, 8), random(8, seed=1))


def test_rms_norm_in_bfloat16_computes_in_float32() -> None:
    x, weight = random(4, 64).detach(), random(64, seed=1).detach()
    found = rms_norm(x.bfloat16(), weight, 1e-5)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), plain_norm(x, weight), rtol=2e-2, atol=2e-2)


def test_rotate_is_the_readable_rotary_embedding() -> None:
    angles = random(6, 4, seed=3).detach()
    cos, sin = angles.cos(), angles.sin()
    assert_same(
        lambda x: rotate(x, cos, sin), lambda x: plain_rotate(x, cos, sin), random(2, 3, 6, 8)
    )


@pytest.mark.parametrize("tokens", [1, CHUNK_TOKENS["cpu"], 2 * CHUNK_TOKENS["cpu"] + 3])
def test_linear_cross_entropy(tokens: int) -> None:
    targets = torch.arange(tokens) % 11
    targets[tokens // 2] = IGNORED

    def plain(hidden: Tensor, weight: Tensor) -> Tensor:
        return F.cross_entropy(hidden @ weight.T, targets, ignore_index=IGNORED, reduction="sum")

    hidden, weight = random(tokens, 6), random(11, 6, seed=1)
    assert_same(lambda h, w: linear_cross_entropy(h, w, targets), plain, hidden, weight)


def test_token_losses_are_cross_entropy_token_by_token() -> None:
    targets = torch.tensor([[3, IGNORED, 10], [0, 7, 7]])
    hidden, weight = random(2, 3, 6).detach(), random(11, 6, seed=1).detach()
    expected = F.cross_entropy((hidden @ weight.T).view(6, 11), targets.view(6), reduction="none")
    found = token_losses(hidden, weight, targets)
    torch.testing.assert_close(found.view(6), expected)
    assert found[0, 1] == 0


def test_ignored_targets_have_no_gradient() -> None:
    hidden, weight = random(4, 6), random(11, 6, seed=1)
    linear_cross_entropy(hidden, weight, torch.tensor([3, IGNORED, 5, IGNORED])).backward()
    assert hidden.grad is not None
    assert hidden.grad[[1, 3]].count_nonzero() == 0
    assert (hidden.grad[[0, 2]].abs().sum(-1) > 0).all()


def slow_attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    scores = (q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
    return scores.masked_fill(~allowed, float("-inf")).softmax(-1) @ v


def test_causal_attention_sees_itself_and_the_past() -> None:
    q, k, v = (random(2, 3, 7, 8, seed=seed) for seed in range(3))
    allowed = torch.ones(7, 7, dtype=torch.bool).tril()
    assert_same(causal_attention, lambda q, k, v: slow_attention(q, k, v, allowed), q, k, v)


def test_packed_mask_is_causal_inside_segments_and_blind_between() -> None:
    mask = packed_causal_mask(torch.tensor([[1, 1, 2, 2, 0]]))
    expected = [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    assert mask.shape == (1, 1, 5, 5)
    assert mask[0, 0].int().tolist() == expected
