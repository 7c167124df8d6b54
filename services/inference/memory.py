"""How much memory weights and caches may take together, over all models that are served at once.

And what becomes of it: a C library keeps what large objects have left for those to come, which for
weights in many pieces is as much again as a model takes.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import weakref

from services.inference.kv_cache import KVCachePool, KVShape
from services.inference.matrix import WeightType
from services.inference.network import Network, weight_bytes
from shared.base.errors import UnavailableError
from shared.contracts.model_config import ModelConfig


class OverBudgetError(UnavailableError):
    """A model does not fit beside those that are loaded; it may later."""

    code = "memory_budget"


class MemoryBudget:
    """Counts networks for as long as they live. Thread-safe."""

    def __init__(self, limit: int, caches: KVCachePool, weights: WeightType = "auto") -> None:
        """`limit` in bytes; 0 means none. Weights by `auto` are of the caches' type."""
        self._weights = weights
        self._limit = limit
        self._caches = caches
        self._lock = threading.Lock()
        self._alive: weakref.WeakSet[Network] = weakref.WeakSet()
        self._has_freed = threading.Event()

    def count(self, network: Network) -> None:
        """Take a network into account for as long as it lives."""
        with self._lock:
            self._alive.add(network)
        self._has_freed.set()  # what loading needed beside the network
        weakref.finalize(network, self._has_freed.set).atexit = False

    @property
    def has_freed(self) -> bool:
        """Whether networks have freed memory since `release_freed` was last called."""
        return self._has_freed.is_set()

    def release_freed(self) -> None:
        """Give back to the system what networks have freed."""
        self._has_freed.clear()
        trim_heap()

    def check(self, config: ModelConfig, *, num_networks: int = 1) -> None:
        """Raise OverBudgetError when networks of this shape have no room beside those alive."""
        with self._lock:
            alive = list(self._alive)
        shapes = {KVShape.of(network.config) for network in alive}
        used = sum(network.num_bytes for network in alive)
        used += sum(map(self._caches.num_bytes, shapes))
        needed = num_networks * weight_bytes(config, self._caches.dtype, self._weights)
        if KVShape.of(config) not in shapes:
            needed += self._caches.num_bytes(KVShape.of(config))
        if self._limit and used + needed > self._limit:
            raise OverBudgetError(
                f"Its weights and cache need {needed >> 20} MiB; of the {self._limit >> 20} MiB "
                f"allowed, {used >> 20} MiB are in use. Raise RYANGPT_INFERENCE_MEMORY_BYTES or "
                f"lower RYANGPT_INFERENCE_SLOTS."
            )


def trim_heap() -> None:
    """Return unused pages to the system, where the C library is glibc."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
