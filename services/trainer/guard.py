"""Steps whose loss or gradient is not finite: passed over on the device, counted, told when asked.

The host need not wait for the device at each step: the weights are safe at once, and whoever looks
later learns how many steps were passed over and how many of them in a row. Knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Skips:
    """Steps passed over since the last look."""

    count: int
    in_a_row: int
    """Those at the end, without a finite one since; also from before the last look."""
    first: int
    """The first of all these steps, from 0; -1 when there is none."""


class FiniteGuard:
    """Counters on the device."""

    def __init__(self, device: torch.device) -> None:
        self._count = torch.zeros((), dtype=torch.int64, device=device)
        self._in_a_row = torch.zeros_like(self._count)
        self._first = torch.full_like(self._count, -1)

    def check(self, loss: Tensor, grad_norm: Tensor, step: int) -> Tensor:
        """Count this step; returns a boolean scalar, whether it may change the weights."""
        finite = torch.isfinite(loss) & torch.isfinite(grad_norm)
        bad = (~finite).long()
        self._count = self._count + bad
        self._first = torch.where((self._first < 0) & ~finite, step, self._first)
        self._in_a_row = (self._in_a_row + bad) * bad
        return finite

    def look(self) -> Skips:
        """What happened since the last look; waits for the device."""
        count, in_a_row, first = torch.stack([self._count, self._in_a_row, self._first]).tolist()
        self._count = torch.zeros_like(self._count)
        if not in_a_row:
            self._first = torch.full_like(self._first, -1)
        return Skips(count=count, in_a_row=in_a_row, first=first)

    def forget(self) -> None:
        """Begin a new row: other weights are there now."""
        self._in_a_row = torch.zeros_like(self._in_a_row)
        self._first = torch.full_like(self._first, -1)
