"""Memory for keys and values: one slot a running request, each as long as the context.

Slots instead of pages: a whole context of these models is small (7.9 MB for the reference preset
in float32), and a request that has a slot can always be finished.
"""

from __future__ import annotations

import math
import threading
import weakref
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shared.contracts.model_config import ModelConfig


@dataclass(frozen=True, slots=True)
class KVShape:
    """What two models must agree on to share a cache."""

    num_layers: int
    num_heads: int
    head_dim: int
    context_length: int

    @classmethod
    def of(cls, config: ModelConfig) -> KVShape:
        """The cache shape of a model."""
        return cls(config.num_layers, config.num_heads, config.head_dim, config.context_length)


class KVCache:
    """Keys and values of `num_slots` sequences, for every layer.

    `keys[layer]` and `values[layer]` are (num_slots * context_length, num_heads, head_dim); slot s
    owns the rows from s * context_length on. Pages that were never written cost no memory.
    """

    def __init__(
        self, shape: KVShape, *, num_slots: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.shape = shape
        self.num_slots = num_slots
        self.dtype = dtype
        size = (
            shape.num_layers,
            num_slots * shape.context_length,
            shape.num_heads,
            shape.head_dim,
        )
        self.keys = _zeros(size, device, dtype).unbind(0)
        self.values = _zeros(size, device, dtype).unbind(0)

    @property
    def num_bytes(self) -> int:
        """Size when every slot has been used."""
        return sum(layer.numel() * layer.element_size() for layer in (*self.keys, *self.values))

    def write(self, layer: int, rows: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k and v (N, num_heads, head_dim) at `rows` (N,) of one layer."""
        self.keys[layer].index_copy_(0, rows, k)
        self.values[layer].index_copy_(0, rows, v)

    def copy(self, source: int, target: int, length: int) -> None:
        """Make the first `length` entries of one slot those of another."""
        context = self.shape.context_length
        for layer in (*self.keys, *self.values):
            slots = layer.view(self.num_slots, context, *layer.shape[1:])
            slots[target, :length] = slots[source, :length]


class KVCachePool:
    """One cache per shape, shared by all loaded models of that shape, freed after the last one."""

    def __init__(self, *, num_slots: int, device: torch.device, dtype: torch.dtype) -> None:
        self._num_slots = num_slots
        self._device = device
        self._dtype = dtype
        self._lock = threading.Lock()
        self._caches: weakref.WeakValueDictionary[KVShape, KVCache] = weakref.WeakValueDictionary()

    def cache_for(self, config: ModelConfig) -> KVCache:
        """Return the cache for a model, making it if no loaded model has this shape."""
        shape = KVShape.of(config)
        with self._lock:
            cache = self._caches.get(shape)
            if cache is None:
                cache = self.one_off(shape, num_slots=self._num_slots)
                self._caches[shape] = cache
            return cache

    def one_off(self, shape: KVShape, *, num_slots: int) -> KVCache:
        """A cache of one's own, for trying a model out beside the running ones."""
        return KVCache(shape, num_slots=num_slots, device=self._device, dtype=self._dtype)


def _zeros(size: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Zeros, not garbage: entries beyond a length are masked, but 0 * NaN would still be NaN.

    On the CPU the memory is NumPy's, whose zeros the kernel backs with pages on the first write
    only; torch's own are written at once.
    """
    if device.type != "cpu":
        return torch.zeros(size, device=device, dtype=dtype)
    num_bytes = math.prod(size) * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(dtype).view(size)
