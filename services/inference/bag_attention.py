"""Attention on the CPU: prompts by SDPA, generated tokens as weighted sums of rows.

For one query, both halves of attention are sums of rows with weights: values weighted by
probabilities, and rows of keys weighted by the query's entries, if a row holds one entry of many
keys. torch's `embedding_bag` computes such sums with a kernel that fetches ahead, from any slots in
any order, and reads nothing but what a row needs: at 32 rows steps are an eighth shorter than with
SDPA, at one row a few percent longer (decision 5).
Keys are therefore stored in tiles of TILE positions: (slots, H, tiles, K, TILE). Indices are made
with NumPy, which needs a third of torch's time for arrays as small as these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


class BagBackend:
    """Generation on the CPU; see the module."""

    name = "bags"

    def cache_sizes(self, shape: KVShape, num_slots: int) -> CacheSizes:
        """See KVOrder."""
        heads = (num_slots, shape.num_heads)
        tiles = _num_tiles(shape.context_length)
        return (*heads, tiles, shape.head_dim, TILE), (*heads, shape.context_length, shape.head_dim)

    def held(
        self, keys: Tensor, values: Tensor, shape: KVShape, slot: int, length: int
    ) -> tuple[Tensor, Tensor]:
        """See KVOrder."""
        return keys[slot, :, : _num_tiles(length)], values[slot, :, :length]

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
                    groups.append(_Chunk(row=row, start=start, mask=causal_mask(row, device)))
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
        values.view(-1, values.shape[-1]).index_put_((self.value_places,), v)

    def mix(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See StepAttention."""
        return mix_all(self.groups, q, keys, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decode:
    """n rows of one query each; the longest has L keys in T tiles."""

    start: int
    num_rows: int
    scale: Tensor
    """(T, 1) 1 / sqrt(K), once for each tile."""
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
        q = q[self.start : self.start + self.num_rows]
        length = len(self.value_rows) // len(self.value_bags)
        entries = q[:, :, None] * self.scale
        scores = _weighted_sums(keys, self.key_rows, self.key_bags, entries)
        scores = scores.view(self.num_rows, q.shape[1], -1)[:, :, :length]
        if self.mask is not None:
            scores = scores + self.mask
        sums = _weighted_sums(values, self.value_rows, self.value_bags, scores.softmax(-1))
        return sums.view(q.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chunk:
    """Several tokens of one prompt."""

    row: RowLayout
    start: int
    mask: Tensor | None
    """(query_length, key_length); None for a prompt's first chunk, which is plainly causal."""

    def mix(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        slot, length = self.row.slot, self.row.key_length
        tiles = keys[slot, :, : _num_tiles(length)].transpose(2, 3)
        out = F.scaled_dot_product_attention(
            q[self.start : self.start + self.row.query_length].transpose(0, 1)[None],
            tiles.flatten(1, 2)[None, :, :length],
            values[slot, None, :, :length],
            attn_mask=self.mask,
            is_causal=self.mask is None,
        )
        return out[0].transpose(0, 1)


def _weighted_sums(table: Tensor, rows: Tensor, bags: Tensor, weights: Tensor) -> Tensor:
    """Sum rows of `table` (..., width) in bags, each times its weight: (bags, width)."""
    # The operator behind F.embedding_bag, whose checks take as long as a small batch.
    table = table.view(-1, table.shape[-1])
    sums, *_ = torch.embedding_bag(table, rows, bags, False, 0, False, weights.view(-1))
    return sums


def _decode(rows: list[RowLayout], start: int, shape: KVShape) -> _Decode:
    head_dim = shape.head_dim
    lengths = np.array([row.key_length for row in rows], np.int32)
    longest = int(lengths.max())
    tiles, positions = _range(_num_tiles(longest)), _range(longest)
    mask = None
    if lengths.min() < longest:
        is_there = positions < lengths[:, None, None]
        mask = torch.from_numpy(np.where(is_there, np.float32(0), np.float32(-np.inf)))
        # Beyond its end a shorter row reads its last entry again, which is in the CPU's cache.
        last = lengths.repeat(shape.num_heads)[:, None] - np.int32(1)
        tiles, positions = np.minimum(tiles, last // TILE), np.minimum(positions, last)
    heads = _heads([row.slot for row in rows], shape).reshape(-1, 1)
    key_tiles = (heads * _num_tiles(shape.context_length) + tiles) * head_dim
    key_rows = key_tiles[..., None] + _range(head_dim)
    value_rows = heads * shape.context_length + positions
    return _Decode(
        start=start,
        num_rows=len(rows),
        scale=torch.full((_num_tiles(longest), 1), head_dim**-0.5),
        key_rows=torch.from_numpy(key_rows.ravel()),
        key_bags=torch.from_numpy(np.arange(0, key_rows.size, head_dim, dtype=np.int32)),
        mask=mask,
        value_rows=torch.from_numpy(value_rows.ravel()),
        value_bags=torch.from_numpy(np.arange(0, value_rows.size, longest, dtype=np.int32)),
    )


def _places(rows: Sequence[RowLayout], shape: KVShape) -> tuple[Tensor, Tensor]:
    """Where the keys and the values of a batch's tokens go."""
    slots = [row.slot for row in rows for _ in range(row.query_length)]
    numbers = [n for row in rows for n in range(row.key_length - row.query_length, row.key_length)]
    positions = np.array(numbers, np.int64)[:, None]
    heads = _heads(slots, shape)
    tiles = heads * _num_tiles(shape.context_length) + positions // TILE
    first_entries = tiles * (shape.head_dim * TILE) + positions % TILE
    key_places = first_entries[..., None] + np.arange(0, shape.head_dim * TILE, TILE)
    value_places = heads * shape.context_length + positions
    return torch.from_numpy(key_places), torch.from_numpy(value_places)


def _heads(slots: list[int], shape: KVShape) -> NDArray[np.int32]:
    """Number of each slot's heads among those of all slots, (len(slots), H)."""
    first = np.array(slots, np.int32)[:, None] * np.int32(shape.num_heads)
    return first + _range(shape.num_heads)


def _range(end: int) -> NDArray[np.int32]:
    return np.arange(end, dtype=np.int32)


def _num_tiles(length: int) -> int:
    return -(-length // TILE)
