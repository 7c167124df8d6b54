"""Matrix products of float32 training on a CPU, done by oneDNN where it is the faster library.

torch gives such products to MKL, which uses AVX-512 on its maker's processors only: elsewhere it
is two to three times slower than oneDNN, which torch carries as well and asks for half precision.
Anything else (GPUs, half precision, older CPUs, torch.compile) goes torch's own way.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

HAS_WIDE_ONEDNN: bool = (
    torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
)


LEAST_PRODUCT = 1 << 21
"""Multiplications from which oneDNN is worth its call, which costs some 15 microseconds more."""


def takes_onednn(a: Tensor, b: Tensor) -> bool:
    """Whether a (..., k) times b (n, k).T goes to oneDNN."""
    return (
        HAS_WIDE_ONEDNN
        and a.numel() * b.shape[0] >= LEAST_PRODUCT
        and a.device.type == "cpu"
        and a.dtype == b.dtype == torch.float32
        and not torch.compiler.is_compiling()
    )


def product(a: Tensor, b: Tensor) -> Tensor:
    """a (m, k) @ b (n, k).T -> (m, n), without a gradient. Both may be transposed views."""
    return _onednn(a, b) if takes_onednn(a, b) else a @ b.T


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a (m, k) @ b (n, k).T to total (m, n), which may be of a wider type."""
    if total.dtype == a.dtype and not takes_onednn(a, b):
        total.addmm_(a, b.T)
    else:
        total += product(a, b)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., in) @ weight (out, in).T -> (..., out), with gradients."""
    if takes_onednn(x, weight):
        out: Tensor = _Linear.apply(x, weight)  # type: ignore[no-untyped-call]
        return out
    return F.linear(x, weight)


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    """By the operator that torch's compiler puts in place of such a product: the only way there."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, _dense(weight), None, "none", [], "")
    return out


def _dense(matrix: Tensor) -> Tensor:
    """Without gaps between rows, or columns: oneDNN is a thousand times slower at others."""
    return matrix if matrix.is_contiguous() or matrix.T.is_contiguous() else matrix.contiguous()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """With y = x w^T: dx = dy w, dw = dy^T x."""
        x, weight = ctx.saved_tensors
        grad = grads[0].flatten(0, -2)
        x_grad = _onednn(grad, weight.T).view(x.shape) if ctx.needs_input_grad[0] else None
        weight_grad = _onednn(grad.T, x.flatten(0, -2).T) if ctx.needs_input_grad[1] else None
        return x_grad, weight_grad
