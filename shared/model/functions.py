"""The element-wise parts of the transformer with hand-written gradients.

Autograd would keep and walk several temporaries for each; on a CPU these passes over memory cost
as much as a matrix product. Under torch.compile the same code is traced and fused.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _ReluSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = F.relu(x)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        # Zero where x was negative, because `positive` is.
        (positive,) = ctx.saved_tensors
        return (grads[0] * positive).mul_(2)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        mean_square = wide.square().mean(-1, keepdim=True)
        scale = torch.rsqrt(mean_square + eps)
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).to(x.dtype) * weight.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """With n = x * scale: dw = sum(g n), dx = scale * (g w - n * mean(g w n))."""
        x, weight, scale = ctx.saved_tensors
        grad = grads[0].float()
        normed = x.float() * scale
        product = grad * normed
        weight_grad = product.flatten(0, -2).sum(0)
        mean = (product @ weight)[..., None] / x.shape[-1]
        x_grad = (grad * weight).addcmul_(normed, mean, value=-1).mul_(scale)
        return x_grad.to(x.dtype), weight_grad, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        # The inverse of a rotation is the rotation by the opposite angle.
        cos, sin = ctx.saved_tensors
        return _rotated(grads[0], cos, sin, -1), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    out = torch.empty_like(x)
    out_first, out_second = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=out_first)
    out_first.addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=out_second)
    out_second.addcmul_(first, sin, value=direction)
    return out


def relu_squared(x: Tensor) -> Tensor:
    """relu(x)^2."""
    out: Tensor = _ReluSquared.apply(x)  # type: ignore[no-untyped-call]
    return out


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) in float32, cast back, then scaled (Zhang & Sennrich, 2019).

    Scaling comes after the cast, in Hugging Face's order. x (..., d), weight (d,) float32.
    """
    out: Tensor = _RmsNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x (..., T, head_dim) by tables that broadcast to (..., T, head_dim / 2)."""
    out: Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return out
