"""The attention seam of generation: queries of a packed batch against the slots of the cache.

A batch is packed without padding: the tokens of all rows one after another. A row attends to the
first `key_length` entries of its slot, its queries being the last of them (bottom-right causal).
Here are the seam and the backend on torch's SDPA, which runs anywhere. The CPU's own is in
`bag_attention`; xformers lives in `xformers_attention`, imported on CUDA only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from services.inference.kv_cache import CacheSizes, KVCache, KVOrder, KVShape
from services.inference.transfer import to_device

MAX_SPAN_PER_ROW = 2
"""A slot that lies idle between busy ones is computed in vain; above this many slots for each
busy one the rows are computed one by one."""


class RowLayout(NamedTuple):
    """Where one row's queries and keys are."""

    slot: int
    query_length: int
    key_length: int
    """Cached tokens after this step, the new ones included."""


class StepAttention(Protocol):
    """Attention prepared for one batch, the same for every layer.

    `keys` and `values` are one layer's cache, in its backend's order.
    """

    def store(self, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write the batch's k and v (N, H, K) to the cache."""

    def mix(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend with q (N, H, K) to what is stored, the batch's own included; (N, H, K)."""


class Mixer(Protocol):
    """Attention of some rows of a batch, which lie together."""

    def mix(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """As StepAttention's, with the whole batch's q; returns its own rows."""


def mix_all(groups: Sequence[Mixer], q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of a whole batch, by the groups into which its rows were put, in order."""
    parts = [group.mix(q, keys, values) for group in groups]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class AttentionBackend(KVOrder, Protocol):
    """A way to compute attention."""

    name: str

    def prepare(
        self, rows: Sequence[RowLayout], *, shape: KVShape, device: torch.device
    ) -> StepAttention:
        """Build indices and masks once for a batch; `rows` in the order of the packed tokens."""


class SlabOrder:
    """Token by token: keys and values are (slots * context, H, K)."""

    def cache_sizes(self, shape: KVShape, num_slots: int) -> CacheSizes:
        """See KVOrder."""
        size = (num_slots * shape.context_length, shape.num_heads, shape.head_dim)
        return size, size

    def held(
        self, keys: Tensor, values: Tensor, shape: KVShape, slot: int, length: int
    ) -> tuple[Tensor, Tensor]:
        """See KVOrder."""
        start = slot * shape.context_length
        return keys[start : start + length], values[start : start + length]


def slab_places(rows: Sequence[RowLayout], shape: KVShape, device: torch.device) -> Tensor:
    """(N,) where in a SlabOrder the batch's keys and values go."""
    places: list[int] = []
    for row in rows:
        end = row.slot * shape.context_length + row.key_length
        places += range(end - row.query_length, end)
    return to_device(places, device)


class SlabStep:
    """A batch over a cache in a SlabOrder; `mix` is the backend's attention."""

    def __init__(self, mix: Callable[[Tensor, Tensor, Tensor], Tensor], places: Tensor) -> None:
        self._mix = mix
        self._places = places

    def store(self, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> None:
        """See StepAttention."""
        keys.index_copy_(0, self._places, k)
        values.index_copy_(0, self._places, v)

    def mix(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See StepAttention."""
        return self._mix(q, keys, values)


class FixedAttention(Protocol):
    """Attention of a number of rows, one query each, whose slots and lengths the device knows.

    Nothing in it depends on their values, so that a CUDA graph can hold it.
    """

    def at(self, slots: Tensor, lengths: Tensor) -> StepAttention:
        """A step of rows in `slots` (B,) with `lengths` (B,) keys, the new ones included."""


class SlabBackend(AttentionBackend, Protocol):
    """A backend over a SlabOrder that can also attend without the host."""

    def fix(self, num_rows: int, cache: KVCache) -> FixedAttention:
        """Prepare for steps of `num_rows` rows over `cache`, whose values do not matter yet."""


class SdpaBackend(SlabOrder):
    """torch's scaled_dot_product_attention, without copying the cache."""

    name = "sdpa"

    def prepare(
        self, rows: Sequence[RowLayout], *, shape: KVShape, device: torch.device
    ) -> StepAttention:
        """See AttentionBackend."""
        context_length = shape.context_length
        groups: list[_Decode | _Chunk] = []
        start = 0
        for is_single, members in groupby(rows, key=lambda row: row.query_length == 1):
            some = list(members)
            if is_single:
                groups += _decode_groups(some, start, context_length, device)
            else:
                groups += _chunks(some, start, context_length, device)
            start += sum(row.query_length for row in some)
        return SlabStep(partial(mix_all, groups), slab_places(rows, shape, device))

    def fix(self, num_rows: int, cache: KVCache) -> FixedAttention:
        """See SlabBackend."""
        return _FixedSdpa(
            cache.shape, torch.arange(cache.shape.context_length, device=cache.device)
        )


@dataclass(frozen=True, slots=True)
class _FixedSdpa:
    """Reads whole slots, as the host does not know how much of them is filled."""

    shape: KVShape
    positions: Tensor

    def at(self, slots: Tensor, lengths: Tensor) -> StepAttention:
        size = (-1, self.shape.context_length, self.shape.num_heads, self.shape.head_dim)
        mask = (self.positions < lengths[:, None])[:, None, None]

        def mix(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            k, v = (cache.view(size)[slots].transpose(1, 2) for cache in (keys, values))
            return F.scaled_dot_product_attention(q[:, :, None], k, v, attn_mask=mask)[:, :, 0]

        return SlabStep(mix, slots * self.shape.context_length + lengths - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decode:
    """Rows of one query each, in slots that lie close together: one call over a view of them."""

    start: int
    first_slot: int
    num_slots: int
    context_length: int
    key_length: int
    rows: Tensor | None
    """Slot of each row relative to the first one; None if they are 0, 1, 2, ..."""
    mask: Tensor | None
    """(num_slots, 1, 1, key_length); None if every key may be seen."""

    def mix(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q = q[self.start : self.start + self._num_rows]
        if self.rows is not None:
            q = q.new_zeros(self.num_slots, *q.shape[1:]).index_copy_(0, self.rows, q)
        out = F.scaled_dot_product_attention(
            q[:, :, None], self._view(keys), self._view(values), attn_mask=self.mask
        )[:, :, 0]
        return out if self.rows is None else out[self.rows]

    @property
    def _num_rows(self) -> int:
        return self.num_slots if self.rows is None else len(self.rows)

    def _view(self, cache: Tensor) -> Tensor:
        """(slots * context, H, K) -> (num_slots, H, key_length, K), nothing copied."""
        slots = cache.view(-1, self.context_length, *cache.shape[1:])
        part = slots[self.first_slot : self.first_slot + self.num_slots, : self.key_length]
        return part.transpose(1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chunk:
    """Several tokens of one prompt."""

    start: int
    count: int
    first_key: int
    key_length: int
    mask: Tensor | None
    """(count, key_length); None for a prompt's first chunk, which is plainly causal."""

    def mix(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        own = slice(self.first_key, self.first_key + self.key_length)
        query, key, value = (
            part.transpose(0, 1)[None]
            for part in (q[self.start : self.start + self.count], keys[own], values[own])
        )
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=self.mask, is_causal=self.mask is None
        )
        return out[0].transpose(0, 1)


def _decode_groups(
    rows: list[RowLayout], start: int, context_length: int, device: torch.device
) -> list[_Decode | _Chunk]:
    slots = [row.slot for row in rows]
    first, span = min(slots), max(slots) - min(slots) + 1
    if span > MAX_SPAN_PER_ROW * len(rows):
        groups = [
            _decode([row], start + n, row.slot, 1, context_length, device)
            for n, row in enumerate(rows)
        ]
    else:
        groups = [_decode(rows, start, first, span, context_length, device)]
    return list(groups)


def _decode(
    rows: list[RowLayout],
    start: int,
    first_slot: int,
    num_slots: int,
    context_length: int,
    device: torch.device,
) -> _Decode:
    relative = [row.slot - first_slot for row in rows]
    key_length = max(row.key_length for row in rows)
    lengths = [1] * num_slots  # an idle slot looks at one entry: an empty row would be NaN
    for position, row in zip(relative, rows, strict=True):
        lengths[position] = row.key_length
    mask = None
    if min(lengths) < key_length:
        limits = to_device(lengths, device)[:, None, None, None]
        mask = torch.arange(key_length, device=device) < limits
    in_order = relative == list(range(num_slots))
    return _Decode(
        start=start,
        first_slot=first_slot,
        num_slots=num_slots,
        context_length=context_length,
        key_length=key_length,
        rows=None if in_order else to_device(relative, device),
        mask=mask,
    )


def _chunks(
    rows: list[RowLayout], start: int, context_length: int, device: torch.device
) -> list[_Decode | _Chunk]:
    chunks: list[_Decode | _Chunk] = []
    for row in rows:
        chunks.append(
            _Chunk(
                start=start,
                count=row.query_length,
                first_key=row.slot * context_length,
                key_length=row.key_length,
                mask=causal_mask(row, device),
            )
        )
        start += row.query_length
    return chunks


def causal_mask(row: RowLayout, device: torch.device) -> Tensor | None:
    """Which keys each query may see (query_length, key_length), bottom-right causal.

    None for a prompt's first chunk, where SDPA's own `is_causal` is the same.
    """
    if row.query_length == row.key_length:
        return None
    ones = torch.ones(row.query_length, row.key_length, dtype=torch.bool, device=device)
    return ones.tril(row.key_length - row.query_length)
