"""A weight matrix, laid out for products with few rows. Knows no model.

On an x86 CPU the layout is oneDNN's own, blocked for its kernels: a product with 8 to 512 rows
takes about half the time of `x @ W`. Elsewhere it is K-major, so that a product is `x @ W`.
On request weights become eight-bit numbers, a quarter of the bytes that a product with few rows
waits for.
"""

from __future__ import annotations

import platform
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

WeightType = Literal["auto", "int8"]
"""`auto` is the type that is computed with."""

BLOCKED_FOR_ROWS = 32
"""Number of rows that oneDNN chooses its blocks for; they serve other numbers nearly as well."""

LARGEST_INT8 = 127
SMALLEST_SCALE = 1e-30
"""Of outputs whose weights are all 0."""


class Matrix(Protocol):
    """A linear map without bias."""

    weight: Tensor
    """In the layout's own order."""
    num_bytes: int

    def __call__(self, x: Tensor) -> Tensor:
        """Return x W^T, (N, in) to (N, out)."""

    def add_to(self, total: Tensor, x: Tensor) -> None:
        """Add x W^T to `total` (N, out) in place."""


def lay_out(weight: Tensor) -> Matrix:
    """Take a weight (out, in), already on its device, into the layout that is fastest there."""
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and is_x86 and has_onednn:
        return BlockedMatrix(weight)
    return KMajor(weight)


class KMajor:
    """Stored transposed: (in, out)."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.t().contiguous()
        self.num_bytes = weight.numel() * weight.element_size()

    def __call__(self, x: Tensor) -> Tensor:
        """See Matrix."""
        return x @ self.weight

    def add_to(self, total: Tensor, x: Tensor) -> None:
        """See Matrix."""
        total.addmm_(x, self.weight)


class BlockedMatrix:
    """Stored in oneDNN's blocks, by the operators that torch's compiler emits for frozen weights.

    oneDNN compiles a kernel of about 0.6 MB for each number of rows and keeps it, so the rows are
    padded to a power of two.
    """

    def __init__(self, weight: Tensor) -> None:
        reorder = torch.ops.mkldnn._reorder_linear_weight
        self.weight: Tensor = reorder(weight.contiguous(), BLOCKED_FOR_ROWS)
        self.num_bytes = weight.numel() * weight.element_size()

    def __call__(self, x: Tensor) -> Tensor:
        """See Matrix."""
        rows = len(x)
        missing = (1 << (rows - 1).bit_length()) - rows if rows else 0
        if missing:
            x = F.pad(x, (0, 0, 0, missing))
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")
        return product[:rows] if missing else product

    def add_to(self, total: Tensor, x: Tensor) -> None:
        """See Matrix."""
        total.add_(self(x))


class Int8Matrix:
    """Stored as whole numbers of eight bits with a scale for each output, which is rounded.

    The product's inputs and outputs are rounded to bfloat16, sums are float32: good between layers,
    but too coarse for logits, where it makes equals of likely tokens.
    """

    def __init__(self, weight: Tensor) -> None:
        scales = (weight.abs().amax(1) / LARGEST_INT8).clamp_min(SMALLEST_SCALE)
        self._scales = scales.bfloat16()
        # Divided by the scales as they are kept, so that their rounding does not add to the error.
        numbers = (weight / self._scales.float()[:, None]).round_()
        self.weight = numbers.clamp_(-LARGEST_INT8, LARGEST_INT8).to(torch.int8)
        self.num_bytes = int8_bytes(*weight.shape)

    def __call__(self, x: Tensor) -> Tensor:
        """See Matrix."""
        return torch._weight_int8pack_mm(x.bfloat16(), self.weight, self._scales).float()

    def add_to(self, total: Tensor, x: Tensor) -> None:
        """See Matrix."""
        total.add_(self(x))


def int8_bytes(out: int, width: int) -> int:
    """Memory of an Int8Matrix."""
    return out * width + 2 * out


def has_fast_int8() -> bool:
    """Whether this CPU has one of the kernels behind Int8Matrix; others are imitated, slowly."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
