"""A program, not a test: our CUDA attention on the CPU, by the real Triton kernel's interpreter.

Runs in an environment of its own (see test_xformers_layout.py) with TRITON_INTERPRET=1. Prints a
line a case, and the largest difference to SDPA in float32.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import torch
import xformers.ops.fmha as fmha
from torch import Tensor
from xformers.ops.fmha.common import Inputs

from services.inference.attention import FixedAttention, RowLayout, SdpaBackend
from services.inference.kv_cache import KVCache, KVShape
from services.inference.xformers_attention import XformersBackend

SLOTS, HEADS, HEAD_DIM = 6, 5, 64
TOLERANCE = 3e-3
"""What half precision explains, for values of unit variance."""
CONTEXTS = {192: "one split", 320: "four splits"}
STEPS = (
    [[(0, 1)]],
    [[(2, 1), (0, 1)]],
    [[(5, 192), (1, 63), (3, 64)]],
    [[(slot, 17 + 31 * slot) for slot in range(SLOTS)]],
    [
        [(4, 5), (0, 70), (5, 1), (3, 1)],
        [(4, 6), (0, 71), (5, 1), (3, 2)],
        [(1, 192), (3, 128), (2, 64), (0, 2)],
    ],
)
"""Steps one after another over the same tensors: first tokens, slots in any order, whole contexts,
every slot, and rows that move on and then lie elsewhere. A row is a slot and its length."""
CPU = torch.device("cpu")


def forward(q: Any, k: Any, v: Any, *, attn_bias: Any, op: Any) -> Any:
    """`memory_efficient_attention_forward` without its check for a CUDA device."""
    inputs = Inputs(query=q, key=k, value=v, attn_bias=attn_bias)
    reasons = [why for why in op.not_supported_reasons(inputs) if "device" not in why]
    assert reasons == [], reasons
    return op.apply(inputs, needs_gradient=False)[0].reshape(q.shape)


class Comparison:
    """Queries over one filled cache, by the kernel in half precision and by SDPA in float32."""

    def __init__(self, context_length: int) -> None:
        shape = KVShape(
            num_layers=1, num_heads=HEADS, head_dim=HEAD_DIM, context_length=context_length
        )
        self._shape = shape
        self._generator = torch.Generator().manual_seed(0)
        ops: Any = SimpleNamespace(fmha=fmha, memory_efficient_attention_forward=forward)
        self._backend = XformersBackend(ops)
        self._cache = KVCache(
            shape, num_slots=SLOTS, order=self._backend, device=CPU, dtype=torch.half
        )
        self._filled = [self._random(SLOTS * context_length) for _ in range(2)]

    def worst(self, steps: list[list[tuple[int, int]]]) -> float:
        """The largest difference in steps that follow one another as in a CUDA graph."""
        fixed = self._backend.fix(len(steps[0]), self._cache)
        return max(self._difference(fixed, step) for step in steps)

    def _difference(self, fixed: FixedAttention, step: list[tuple[int, int]]) -> float:
        rows = [RowLayout(slot=slot, query_length=1, key_length=length) for slot, length in step]
        q = self._random(len(rows))
        slots, lengths = torch.tensor(step).unbind(1)
        found = fixed.at(slots, lengths).mix(q.half(), *(part.half() for part in self._filled))
        twin = SdpaBackend().prepare(rows, shape=self._shape, device=CPU)
        return (found.float() - twin.mix(q, *self._filled)).abs().max().item()

    def _random(self, rows: int) -> Tensor:
        return torch.randn(rows, HEADS, HEAD_DIM, generator=self._generator)


def main() -> None:
    """Compare all cases; exits with 1 when one is off by more than half precision explains."""
    found = []
    for context_length, name in CONTEXTS.items():
        comparison = Comparison(context_length)
        for number, steps in enumerate(STEPS):
            found.append(comparison.worst(steps))
            sys.stdout.write(f"{name}, case {number}: {found[-1]:.2e}\n")
    sys.exit(not max(found) < TOLERANCE)


if __name__ == "__main__":
    main()
