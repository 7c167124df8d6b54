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
from xformers.ops.fmha.common import Inputs

from services.inference.attention import RowLayout, SdpaBackend
from services.inference.kv_cache import KVShape
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


def main() -> None:
    """Compare all cases; exits with 1 when one is off by more than half precision explains."""
    ops = SimpleNamespace(fmha=fmha, memory_efficient_attention_forward=forward)
    generator = torch.Generator().manual_seed(0)
    keys, values = (
        torch.randn(SLOTS * CONTEXT, HEADS, HEAD_DIM, generator=generator) for _ in range(2)
    )
    worst = 0.0
    for name, case in CASES.items():
        rows = [RowLayout(slot=slot, query_length=1, key_length=length) for slot, length in case]
        q = torch.randn(len(rows), HEADS, HEAD_DIM, generator=generator)
        kind = ManySplits if "split" in name else XformersBackend
        where: Any = {"shape": SHAPE, "device": torch.device("cpu")}
        half = [part.half() for part in (q, keys, values)]
        found = kind(ops).prepare(rows, **where).mix(*half)  # type: ignore[arg-type]
        expected = SdpaBackend().prepare(rows, **where).mix(q, keys, values)
        difference = (found.float() - expected).abs().max().item()
        sys.stdout.write(f"{name}: {difference:.2e}\n")
        worst = max(worst, difference)
    sys.exit(not worst < TOLERANCE)


if __name__ == "__main__":
    main()
