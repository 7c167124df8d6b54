"""Learning rates: pure functions of the step, so a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

DECAY_SHARE = 5
"""`wsd` decays over the last 1/DECAY_SHARE of a run."""
WARMUP_SHARE = 10
"""Warm-up takes at most 1/WARMUP_SHARE of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Linear warm-up to `peak`, then a shape that reaches `low` exactly at the last step."""

    shape: Literal["cosine", "wsd", "constant"]
    peak: float
    low: float
    warmup_steps: int
    total_steps: int

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, ... total_steps - 1."""
        warmup = min(self.warmup_steps, self.total_steps // WARMUP_SHARE)
        if step < warmup:
            return self.peak * (step + 1) / warmup
        if self.shape == "constant":
            return self.peak
        if self.shape == "cosine":
            done = _share(step, warmup, self.total_steps)
            return self.low + (self.peak - self.low) * (1 + math.cos(math.pi * done)) / 2
        start = max(warmup, self.total_steps - math.ceil(self.total_steps / DECAY_SHARE))
        done = _share(step, start, self.total_steps)
        return self.peak + (self.low - self.peak) * done


def _share(step: int, start: int, end: int) -> float:
    """0 before `start`, 1 at the last step before `end`, linear between."""
    return min(1.0, max(0.0, (step - start + 1) / (end - start)))
