"""Attention by xformers' memory-efficient kernels on CUDA. Imported on a CUDA device only.

Every operator is named: xformers' own dispatch may find none, or change its mind between releases.
Batches with prompts run FlashAttention-2, the only operator of the PyPI wheels that takes gappy
keys with differing query lengths. Pure generation runs Triton's split-K kernel, which is compiled
anew for every number of rows and every longest length it is told: it is told a whole slot's.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from services.inference.attention import (
    RowLayout,
    SdpaBackend,
    SlabOrder,
    SlabStep,
    StepAttention,
    slab_places,
)
from services.inference.kv_cache import KVCache, KVShape
from services.inference.transfer import to_device
from shared.base.errors import StartupError

HINT = "Install the `cuda` extra, or set RYANGPT_ATTENTION=sdpa to do without xformers."
TOLERANCE = 2e-2
"""Largest difference to SDPA that bfloat16 explains, for values of unit variance."""
LARGEST_CACHE = 2**31 - 1
"""Numbers in one layer's keys: the split-K kernel counts with 32 bits."""
SPLIT_OF_LENGTH = ((256, 1), (2048, 4))
"""Longest key length and split of the kernel; beyond them 16. More splits keep more of the card
busy when few rows are long, and cost a second kernel."""
BUSY_WITH = 256
"""Rows times heads that keep every multiprocessor of a large card (132) busy without a split."""


class XformersBackend(SlabOrder):
    """`memory_efficient_attention_forward` over the slots of the cache."""

    name = "xformers"

    def __init__(self, ops: ModuleType) -> None:
        """`ops` is `xformers.ops`."""
        self._ops = ops
        fmha = ops.fmha
        self._bias: Any = fmha.attn_bias.BlockDiagonalCausalWithOffsetGappyKeysMask
        self._prefill_op: Any = fmha.flash.FwOp
        self._decode_ops: dict[int, Any] = fmha.triton_splitk.FwOp_Map

    def prepare(
        self, rows: Sequence[RowLayout], *, shape: KVShape, device: torch.device
    ) -> StepAttention:
        """See AttentionBackend."""
        starts = [row.slot * shape.context_length for row in rows]
        end = max(starts) + shape.context_length
        bias = self._bias.from_seqlens(
            q_seqlen=[row.query_length for row in rows],
            kv_seqstarts=[*starts, end],
            kv_seqlen=[row.key_length for row in rows],
            device=device,
        )

        def mix(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return self._attend(q, keys[:end], values[:end], bias, self._prefill_op)

        return SlabStep(mix, slab_places(rows, shape, device))

    def fix(self, num_rows: int, cache: KVCache) -> FixedXformers:
        """See SlabBackend. Raises StartupError for a cache that the kernel cannot address."""
        if max(map(len, cache.keys)) * cache.keys[0][0].numel() > LARGEST_CACHE:
            raise StartupError(
                f"A layer's keys have more than {LARGEST_CACHE} numbers, which xformers cannot "
                "address; lower RYANGPT_INFERENCE_SLOTS."
            )
        shape = cache.shape
        bias = self._bias.from_seqlens(
            q_seqlen=[1] * num_rows,
            kv_seqstarts=[
                *(row * shape.context_length for row in range(num_rows)),
                cache.num_slots * shape.context_length,
            ],
            kv_seqlen=[shape.context_length] * num_rows,
            device=cache.device,
        )
        is_busy = num_rows * shape.num_heads >= BUSY_WITH
        op = self._decode_ops[1 if is_busy else split_of(shape.context_length)]
        return FixedXformers(partial(self._attend, bias=bias, op=op), bias, shape)

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, bias: Any, op: Any) -> Tensor:
        """(N, H, K): the operator's own shapes have a batch of one before them."""
        out: Tensor = self._ops.memory_efficient_attention_forward(
            q[None], keys[None], values[None], attn_bias=bias, op=op
        )
        return out[0]


class FixedXformers:
    """The split-K kernel over lengths that only the device knows.

    The bias is made for whole slots, as the kernel takes the longest length from the host; starts
    and lengths are then written into its tensors, at the same addresses in each step.
    """

    def __init__(
        self, attend: Callable[[Tensor, Tensor, Tensor], Tensor], bias: Any, shape: KVShape
    ) -> None:
        """`attend` is the kernel over `bias`."""
        self._attend = attend
        self._k_seqinfo: Any = bias.k_seqinfo
        self._context_length = shape.context_length

    def at(self, slots: Tensor, lengths: Tensor) -> StepAttention:
        """See FixedAttention."""
        starts = slots * self._context_length
        self._k_seqinfo.seqstart[:-1].copy_(starts)
        self._k_seqinfo.seqlen.copy_(lengths)
        return SlabStep(self._attend, starts + lengths - 1)


def split_of(length: int) -> int:
    """Into how many parts keys of a length are split."""
    return next((split for longest, split in SPLIT_OF_LENGTH if length <= longest), 16)


def open_xformers(device: torch.device) -> XformersBackend:
    """Import xformers, try its operators against SDPA, and return the backend.

    Raises StartupError with what is wrong. There is no fallback: a service that silently ran
    something slower would be found out only by its users.
    """
    preload_cuda_runtime()
    try:
        backend = XformersBackend(importlib.import_module("xformers.ops"))
    except (ImportError, AttributeError, OSError) as error:
        raise StartupError(f"xformers cannot be used: {error}. {HINT}") from error
    self_test(backend, device)
    return backend


def preload_cuda_runtime() -> None:
    """Load libcudart.so.12 for xformers' extension, where its wheel is installed.

    The PyPI wheel of xformers is built for CUDA 12 and torch ships CUDA 13's runtime; without the
    library every CUDA operator is refused with "wasn't build with CUDA support".
    """
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        library = Path(folder) / "cuda_runtime" / "lib" / "libcudart.so.12"
        if library.exists():
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            return


def self_test(backend: XformersBackend, device: torch.device) -> None:
    """Compare generating batches, as the host and as the device lays them out, and a mixed one
    with SDPA. Raises StartupError."""
    shape = KVShape(num_layers=1, num_heads=2, head_dim=64, context_length=320)
    generator = torch.Generator(device="cpu").manual_seed(0)

    def random(rows: int) -> Tensor:
        values = torch.randn(rows, shape.num_heads, shape.head_dim, generator=generator)
        return values.to(device, torch.bfloat16)

    cache = KVCache(shape, num_slots=4, order=backend, device=device, dtype=torch.bfloat16)
    keys, values = (part[0].copy_(random(len(part[0]))) for part in (cache.keys, cache.values))
    decode = [RowLayout(slot=slot, query_length=1, key_length=7 + 90 * slot) for slot in (3, 0, 2)]
    mixed = [*decode, RowLayout(slot=1, query_length=33, key_length=50)]
    slots, lengths = (
        to_device(column, device)
        for column in zip(*((row.slot, row.key_length) for row in decode), strict=True)
    )
    batches: list[tuple[list[RowLayout], Callable[[], StepAttention]]] = [
        (decode, lambda: backend.prepare(decode, shape=shape, device=device)),
        (decode, lambda: backend.fix(len(decode), cache).at(slots, lengths)),
        (mixed, lambda: backend.prepare(mixed, shape=shape, device=device)),
    ]
    for rows, begin in batches:
        q = random(sum(row.query_length for row in rows))
        expected = SdpaBackend().prepare(rows, shape=shape, device=device).mix(q, keys, values)
        try:
            found = begin().mix(q, keys, values)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise StartupError(f"xformers refused its self-test: {error}. {HINT}") from error
        difference = (found.float() - expected.float()).abs().max().item()
        if not difference <= TOLERANCE:
            raise StartupError(
                f"xformers' self-test differs from SDPA by {difference:.3g} "
                f"(at most {TOLERANCE} is rounding). {HINT}"
            )
