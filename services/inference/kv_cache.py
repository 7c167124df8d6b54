"""Memory for keys and values: one slot a running request, each as long as the context.

Slots instead of pages: a whole context of these models is small (7.9 MB for the reference preset
in float32), and a request that has a slot can always be finished.
"""

from __future__ import annotations

import math
import threading
import weakref
from dataclasses import dataclass
from typing import Protocol

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


CacheSizes = tuple[tuple[int, ...], tuple[int, ...]]
"""Sizes of one layer's keys and of its values."""


class KVOrder(Protocol):
    """In which order numbers lie in a cache: the one that an attention backend reads fastest."""

    def cache_sizes(self, shape: KVShape, num_slots: int) -> CacheSizes:
        """Sizes of one layer's keys and values."""

    def held(
        self, keys: Tensor, values: Tensor, shape: KVShape, slot: int, length: int
    ) -> tuple[Tensor, Tensor]:
        """The parts of one layer's keys and values that hold a slot's first `length` tokens."""


class KVCache:
    """Keys and values of `num_slots` sequences, for every layer.

    Only the attention backend knows the order within `keys[layer]` and `values[layer]`. Pages that
    were never written cost no memory.
    """

    def __init__(
        self,
        shape: KVShape,
        *,
        num_slots: int,
        order: KVOrder,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.shape = shape
        self.num_slots = num_slots
        self.device = device
        keys, values = order.cache_sizes(shape, num_slots)
        self._order = order
        self.keys = _zeros((shape.num_layers, *keys), device, dtype).unbind(0)
        self.values = _zeros((shape.num_layers, *values), device, dtype).unbind(0)

    @property
    def num_bytes(self) -> int:
        """Size when every slot has been used."""
        return sum(layer.numel() * layer.element_size() for layer in (*self.keys, *self.values))

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot `target` the first `length` tokens of slot `source`, in every layer."""
        for layer in zip(self.keys, self.values, strict=True):
            old = self._order.held(*layer, self.shape, source, length)
            new = self._order.held(*layer, self.shape, target, length)
            for one, other in zip(old, new, strict=True):
                other.copy_(one)


class KVCachePool:
    """One cache per shape, shared by all loaded models of that shape, freed after the last one."""

    def __init__(
        self, *, num_slots: int, order: KVOrder, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._num_slots = num_slots
        self._order = order
        self._device = device
        self.dtype = dtype
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

    def num_bytes(self, shape: KVShape) -> int:
        """Size of the cache for a shape when every slot has been used."""
        sizes = self._order.cache_sizes(shape, self._num_slots)
        return shape.num_layers * sum(map(math.prod, sizes)) * self.dtype.itemsize

    def one_off(self, shape: KVShape, *, num_slots: int) -> KVCache:
        """A cache of one's own, for trying a model out beside the running ones."""
        return KVCache(
            shape,
            num_slots=num_slots,
            order=self._order,
            device=self._device,
            dtype=self.dtype,
        )


def _zeros(size: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Zeros, not garbage: entries beyond a length are masked, but 0 * NaN would still be NaN.

    On the CPU the memory is NumPy's, whose zeros the kernel backs with pages on the first write
    only; torch's own are written at once.
    """
    if device.type != "cpu":
        return torch.zeros(size, device=device, dtype=dtype)
    num_bytes = math.prod(size) * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(dtype).view(size)
