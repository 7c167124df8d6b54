"""The attention seam of training: one function from q, k, v to their mix. Knows no model.

Always four-dimensional: torch's fused kernels refuse anything else and would silently give way to
the one that materialises the T x T scores.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mix v by softmax(q k^T / sqrt(head_dim)); all are (B, H, T, head_dim).

    Without a mask every position sees itself and what is before it (flash kernel). `mask`, a
    boolean that broadcasts to (B, H, T, T), replaces that: True where a query may look. It must be
    causal by itself, and no row of it may be empty.
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)


def packed_causal_mask(segments: Tensor) -> Tensor:
    """Causal inside each segment, blind between segments: (B, T) ids -> (B, 1, T, T) booleans.

    Padding needs an id of its own; it then sees padding only, so that no row is empty.
    """
    length = segments.shape[1]
    same = segments[:, None, :, None] == segments[:, None, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return same & causal
