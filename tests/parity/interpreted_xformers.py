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

from services.inference.attention import RowLayout, SdpaBackend, SlabOrder, StepAttention
from services.inference.kv_cache import KVCache, KVShape
from services.inference.xformers_attention import XformersBackend

CONTEXT, SLOTS, HEADS, HEAD_DIM = 192, 6, 5, 64
SHAPE = KVShape(num_layers=1, num_heads=HEADS, head_dim=HEAD_DIM, context_length=CONTEXT)
TOLERANCE = 3e-3
"""What half precision explains, for values of unit variance."""
CASES = {
    "one row": [(0, 1)],
    "first tokens": [(2, 1), (0, 1)],
    "slots in any order": [(4, 5), (0, 70), (2, 128)],
    "a full context": [(5, CONTEXT), (1, 63), (3, 64)],
    "every slot": [(slot, 17 + 31 * slot) for slot in range(SLOTS)],
    "more than one split": [(1, CONTEXT), (2, 9)],
}

FIXED = [
    [(4, 5), (0, 70), (5, 1), (3, 1)],
    [(4, 6), (0, 71), (5, 1), (3, 2)],
    [(1, CONTEXT), (3, 128), (2, 64), (0, 2)],
]
"""Rows that move on, lie elsewhere and grow to a whole context."""
CPU = torch.device("cpu")
WHERE: Any = {"shape": SHAPE, "device": CPU}


def forward(q: Any, k: Any, v: Any, *, attn_bias: Any, op: Any) -> Any:
    """`memory_efficient_attention_forward` without its check for a CUDA device."""
    inputs = Inputs(query=q, key=k, value=v, attn_bias=attn_bias)
    reasons = [why for why in op.not_supported_reasons(inputs) if "device" not in why]
    assert reasons == [], reasons
    return op.apply(inputs, needs_gradient=False)[0].reshape(q.shape)


class ManySplits(XformersBackend):
    """Takes the kernel that splits long rows whatever their length."""

    def _operator(self, rows: Any) -> Any:
        return self._decode_ops[4]


class Comparison:
    """Queries over one filled cache, by the kernel in half precision and by SDPA in float32."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._ops: Any = SimpleNamespace(fmha=fmha, memory_efficient_attention_forward=forward)
        self._filled = [self._random(SLOTS * CONTEXT) for _ in range(2)]
        self.worst = 0.0

    def compare(self, name: str, case: list[tuple[int, int]]) -> None:
        """A step that the host lays out."""
        rows, q = _rows(case), self._random(len(case))
        kind = ManySplits if "split" in name else XformersBackend
        self._judge(name, kind(self._ops).prepare(rows, **WHERE), rows, q)

    def compare_fixed(self, name: str, cases: list[list[tuple[int, int]]]) -> None:
        """Steps one after another over the same tensors, as a CUDA graph would run them."""
        cache = KVCache(SHAPE, num_slots=SLOTS, order=SlabOrder(), device=CPU, dtype=torch.half)
        fixed = XformersBackend(self._ops).fix(len(cases[0]), cache)
        for number, case in enumerate(cases):
            slots, lengths = torch.tensor(case).unbind(1)
            q = self._random(len(case))
            self._judge(f"{name} {number}", fixed.at(slots, lengths), _rows(case), q)

    def _judge(self, name: str, step: StepAttention, rows: list[RowLayout], q: Tensor) -> None:
        found = step.mix(q.half(), *(part.half() for part in self._filled))
        expected = SdpaBackend().prepare(rows, **WHERE).mix(q, *self._filled)
        difference = (found.float() - expected).abs().max().item()
        sys.stdout.write(f"{name}: {difference:.2e}\n")
        self.worst = max(self.worst, difference)

    def _random(self, rows: int) -> Tensor:
        return torch.randn(rows, HEADS, HEAD_DIM, generator=self._generator)


def _rows(case: list[tuple[int, int]]) -> list[RowLayout]:
    return [RowLayout(slot=slot, query_length=1, key_length=length) for slot, length in case]


def main() -> None:
    """Compare all cases; exits with 1 when one is off by more than half precision explains."""
    comparison = Comparison()
    for name, case in CASES.items():
        comparison.compare(name, case)
    comparison.compare_fixed("fixed", FIXED)
    sys.exit(not comparison.worst < TOLERANCE)


if __name__ == "__main__":
    main()
