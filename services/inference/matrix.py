"""A weight matrix, laid out for products with few rows. Knows no model.

On an x86 CPU the layout is oneDNN's own, blocked for its kernels: a product with 8 to 512 rows
takes about half the time of `x @ W`. Elsewhere it is K-major, so that a product is `x @ W`.
"""

from __future__ import annotations

import platform
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKED_FOR_ROWS = 32
"""Number of rows that oneDNN chooses its blocks for; they serve other numbers nearly as well."""


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
