"""Attention on the CPU: prompts by SDPA, generated tokens as weighted sums of rows.

For one query, both halves of attention are sums of rows with weights: values weighted by
probabilities, and rows of keys weighted by the query's entries, if a row holds one entry of many
keys. torch's `embedding_bag` computes such sums with a kernel that fetches ahead, from any slots in
any order, and reads nothing but what a row needs: at 32 rows steps are an eighth shorter than with
SDPA, at one row a few percent longer (decision 5).
Keys are therefore stored in tiles of TILE positions: (slots * H * tiles * K, TILE), and values
(slots * H * context, K). Indices are made with NumPy, which needs a third of torch's time for
arrays as small as these, and kept: a step's code and data are no longer in the CPU's cache when the
next one begins, so that everything it does not have to touch counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from services.inference.attention import RowLayout, causal_mask, mix_all
from services.inference.kv_cache import CacheSizes, KVShape

TILE = 64
"""Positions in a row of keys: 256 bytes, long enough to stream, short enough to waste little."""

KEPT = 4
"""Of how many batches indices are kept: steps of the same rows use most of them again."""


class BagBackend:
    """Generation on the CPU; see the module."""

    name = "bags"

    def cache_sizes(self, shape: KVShape, num_slots: int) -> CacheSizes:
        """See KVOrder."""
        heads = num_slots * shape.num_heads
        tiles = heads * _num_tiles(shape.context_length)
        return (tiles * shape.head_dim, TILE), (heads * shape.context_length, shape.head_dim)

    def held(
        self, keys: Tensor, values: Tensor, shape: KVShape, slot: int, length: int
    ) -> tuple[Tensor, Tensor]:
        """See KVOrder."""
        tiles, rows = _of_slot(keys, values, shape, slot)
        return tiles[:, : _num_tiles(length)], rows[:, :length]

    def prepare(
        self, rows: Sequence[RowLayout], *, shape: KVShape, device: torch.device
    ) -> _BagStep:
        """See AttentionBackend."""
        groups: list[_Decode | _Chunk] = []
        start = 0
        for is_single, members in groupby(rows, key=lambda row: row.query_length == 1):
            some = list(members)
            if is_single:
                groups.append(_decode(some, start, shape))
                start += len(some)
            else:
                for row in some:
                    mask = causal_mask(row, device)
                    groups.append(_Chunk(row=row, start=start, shape=shape, mask=mask))
                    start += row.query_length
        return _BagStep(groups, *_places(rows, shape))


@dataclass(frozen=True, slots=True)
class _BagStep:
    groups: list[_Decode | _Chunk]
    key_places: Tensor
    """(N, H, K) where each number goes in a layer's keys."""
    value_places: Tensor
    """(N, H) which row of a layer's values each of the new ones becomes."""

    def store(self, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> None:
        """See StepAttention."""
        keys.put_(self.key_places, k)
        values.index_put_((self.value_places,), v)

    def mix(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See StepAttention."""
        return mix_all(self.groups, q, keys, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decode:
    """n rows of one query each; the longest has L keys in T tiles."""

    start: int
    num_rows: int
    num_tiles: int
    length: int
    scale: float
    """1 / sqrt(K)"""
    key_rows: Tensor
    """(n * H * T * K,) int32: the rows that a query's entries weigh, tile by tile."""
    key_bags: Tensor
    """(n * H * T,) int32: where each tile's begin."""
    mask: Tensor | None
    """(n, 1, L) 0 or -inf, added to scores; None when all rows have L keys."""
    value_rows: Tensor
    """(n * H * L,) int32: the rows that a query's probabilities weigh."""
    value_bags: Tensor
    """(n * H,) int32: where each head's begin."""

    def mix(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q = q.narrow(0, self.start, self.num_rows)
        entries = torch.cat((q,) * self.num_tiles, -1)
        scores = _weighted_sums(keys, self.key_rows, self.key_bags, entries)
        scores = scores.view(self.num_rows, q.shape[1], -1).narrow(2, 0, self.length)
        if self.mask is None:
            scores = scores * self.scale
        else:
            scores = torch.add(self.mask, scores, alpha=self.scale)
        weights = torch.softmax(scores, -1)
        return _weighted_sums(values, self.value_rows, self.value_bags, weights).view(q.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chunk:
    """Several tokens of one prompt."""

    row: RowLayout
    start: int
    shape: KVShape
    mask: Tensor | None
    """(query_length, key_length); None for a prompt's first chunk, which is plainly causal."""

    def mix(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        length = self.row.key_length
        tiles, rows = _of_slot(keys, values, self.shape, self.row.slot)
        out = F.scaled_dot_product_attention(
            q[self.start : self.start + self.row.query_length].transpose(0, 1)[None],
            tiles[:, : _num_tiles(length)].transpose(2, 3).flatten(1, 2)[None, :, :length],
            rows[None, :, :length],
            attn_mask=self.mask,
            is_causal=self.mask is None,
        )
        return out[0].transpose(0, 1)


def _of_slot(keys: Tensor, values: Tensor, shape: KVShape, slot: int) -> tuple[Tensor, Tensor]:
    """One slot's keys (H, tiles, K, TILE) and values (H, context, K)."""
    heads = slice(slot * shape.num_heads, (slot + 1) * shape.num_heads)
    tiles = _num_tiles(shape.context_length)
    return (
        keys.view(-1, tiles, shape.head_dim, TILE)[heads],
        values.view(-1, shape.context_length, shape.head_dim)[heads],
    )


def _weighted_sums(table: Tensor, rows: Tensor, bags: Tensor, weights: Tensor) -> Tensor:
    """Sum rows of `table` in bags, each times its weight: (bags, width)."""
    # The operator behind F.embedding_bag, whose checks take as long as a small batch.
    return torch.embedding_bag(table, rows, bags, False, 0, False, weights.view(-1))[0]


def _decode(rows: list[RowLayout], start: int, shape: KVShape) -> _Decode:
    lengths = [row.key_length for row in rows]
    longest = max(lengths)
    slots = tuple([row.slot for row in rows])
    key_rows, key_bags = _key_indices(slots, tuple(map(_num_tiles, lengths)), shape)
    positions, mask = _range(longest), None
    if min(lengths) < longest:
        ends = np.array(lengths, np.int32)[:, None, None]
        mask = torch.from_numpy(np.where(positions < ends, np.float32(0), np.float32(-np.inf)))
        # Beyond its end a shorter row reads its last entry again, which is in the CPU's cache.
        positions = np.minimum(positions, ends - np.int32(1))
    value_rows = _first_rows(slots, shape)[..., None] + positions
    return _Decode(
        start=start,
        num_rows=len(rows),
        num_tiles=_num_tiles(longest),
        length=longest,
        scale=shape.head_dim**-0.5,
        key_rows=key_rows,
        key_bags=key_bags,
        mask=mask,
        value_rows=torch.from_numpy(value_rows.ravel()),
        value_bags=torch.from_numpy(np.arange(0, value_rows.size, longest, dtype=np.int32)),
    )


@lru_cache(KEPT)
def _key_indices(
    slots: tuple[int, ...], num_tiles: tuple[int, ...], shape: KVShape
) -> tuple[Tensor, Tensor]:
    """A _Decode's `key_rows` and `key_bags`; they change with a row's next tile only."""
    head_dim = shape.head_dim
    # As with values, a shorter row reads its last tile again.
    last = np.array(num_tiles, np.int32)[:, None, None] - np.int32(1)
    tiles = np.minimum(_range(max(num_tiles)), last)
    first = _heads(slots, shape)[..., None] * np.int32(_num_tiles(shape.context_length))
    key_rows = ((first + tiles) * head_dim)[..., None] + _range(head_dim)
    key_bags = np.arange(0, key_rows.size, head_dim, dtype=np.int32)
    return torch.from_numpy(key_rows.ravel()), torch.from_numpy(key_bags)


def _places(rows: Sequence[RowLayout], shape: KVShape) -> tuple[Tensor, Tensor]:
    """Where the keys and the values of a batch's tokens go."""
    if all(row.query_length == 1 for row in rows):
        slots = tuple([row.slot for row in rows])
        numbers = [row.key_length - 1 for row in rows]
    else:
        slots = tuple([row.slot for row in rows for _ in range(row.query_length)])
        numbers = [
            n for row in rows for n in range(row.key_length - row.query_length, row.key_length)
        ]
    positions = np.array(numbers, np.int64)[:, None]
    entries = _first_entries(slots, shape)
    step = shape.head_dim * TILE
    tile, place = np.divmod(positions, TILE)
    key_places = entries + (tile * step + place)[..., None]
    value_places = _first_rows(slots, shape) + positions
    return torch.from_numpy(key_places), torch.from_numpy(value_places)


@lru_cache(KEPT)
def _first_entries(slots: tuple[int, ...], shape: KVShape) -> NDArray[np.int64]:
    """(N, H, K) where the numbers of each slot's first key are."""
    step = shape.head_dim * TILE
    heads = _heads(slots, shape).astype(np.int64) * (_num_tiles(shape.context_length) * step)
    return heads[..., None] + np.arange(0, step, TILE)


@lru_cache(KEPT)
def _first_rows(slots: tuple[int, ...], shape: KVShape) -> NDArray[np.int32]:
    """(N, H) which row each slot's first value is."""
    return _heads(slots, shape) * np.int32(shape.context_length)


def _heads(slots: tuple[int, ...], shape: KVShape) -> NDArray[np.int32]:
    """Number of each slot's heads among those of all slots, (N, H)."""
    first = np.array(slots, np.int32)[:, None] * np.int32(shape.num_heads)
    return first + _range(shape.num_heads)


def _range(end: int) -> NDArray[np.int32]:
    return np.arange(end, dtype=np.int32)


def _num_tiles(length: int) -> int:
    return -(-length // TILE)
