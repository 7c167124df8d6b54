"""Root mean square normalization (Zhang & Sennrich, 2019) without what the next matrix can do.

RMSNorm(x) W^T = normalize(x) (W diag(factor * gamma))^T: constants and gains are laid into the
matrix when it is loaded. Knows no model.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Norm(Protocol):
    """Normalizes rows x (N, d)."""

    factor: float
    """What the result is too small by."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return x / sqrt(mean(x^2) + eps) / factor."""


def make_norm(width: int, eps: float, device: torch.device) -> Norm:
    """The way that is fastest on `device`."""
    return LengthNorm(width, eps) if device.type == "cpu" else RmsNorm(width, eps)


class RmsNorm:
    """torch's, which is one kernel on CUDA and six on the CPU."""

    factor = 1.0

    def __init__(self, width: int, eps: float) -> None:
        self._shape = (width,)
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """See Norm."""
        return F.rms_norm(x, self._shape, eps=self._eps)


class LengthNorm:
    """x / sqrt(|x|^2 + d eps): three kernels, half the time for the few rows of a step."""

    def __init__(self, width: int, eps: float) -> None:
        self.factor = math.sqrt(width)
        self._floor = torch.tensor(math.sqrt(width * eps))

    def __call__(self, x: Tensor) -> Tensor:
        """See Norm."""
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        length.hypot_(self._floor)
        return x / length
