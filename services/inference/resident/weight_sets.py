"""Weights that new versions are copied into, so that what was captured over them stays valid.

Each set is a network with its captured steps. Of every shape of model there is one set more than
versions in use: a swap fills the idle one while the others generate, and captures and allocates
nothing. Sets are given back when the version in them is forgotten, and freed when no version of
their shape is left. Knows no file and no request.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.inference.attention import SlabBackend
from services.inference.kv_cache import KVCache, KVCachePool
from services.inference.matrix import KMajor
from services.inference.memory import MemoryBudget
from services.inference.network import Network
from services.inference.norm import Norm
from services.inference.resident.decode_step import Capture, DecodeStep
from services.inference.resident.sampling import Effort
from services.inference.resident.slot_table import SlotTable
from shared.contracts.model_config import ModelConfig


@dataclass(frozen=True, slots=True)
class WeightSet:
    """One network and its steps, by rows and effort."""

    network: Network
    steps: Mapping[tuple[int, Effort], DecodeStep]


@dataclass(slots=True, eq=False, weakref_slot=True)
class Resident:
    """A version's hold on a set; the set is idle again when this is released or gone."""

    name: str
    weights: WeightSet
    group: _Group
    release: weakref.finalize[..., Resident] = field(init=False)
    """To be called when nobody generates with the version any more, whoever still looks at it."""

    def __post_init__(self) -> None:
        # Without a lock: it may run anywhere, also in the midst of `load`.
        self.release = weakref.finalize(self, self.group.idle.append, self.weights)
        self.release.atexit = False

    @property
    def network(self) -> Network:
        """The version's weights."""
        return self.weights.network

    @property
    def table(self) -> SlotTable:
        """Shared by all versions of the shape."""
        return self.group.table

    def step(self, num_rows: int, effort: Effort) -> DecodeStep:
        """The smallest step that has room for so many rows."""
        return self.weights.steps[_bucket(num_rows, self.table.scratch), effort]


@dataclass(slots=True, eq=False, weakref_slot=True)
class _Group:
    """All sets of one shape."""

    cache: KVCache
    table: SlotTable
    capture: Capture
    idle: deque[WeightSet] = field(default_factory=deque)
    num_sets: int = 0
    leases: weakref.WeakSet[Resident] = field(default_factory=weakref.WeakSet)

    def num_lacking(self, name: str) -> int:
        """Sets to make before a version of `name` is loaded: one a model and one to swap."""
        held = {lease.name for lease in self.leases if lease.release.alive}
        wanted = len(held | {name}) + 1
        return max(wanted - self.num_sets, 0 if self.idle else 1)

    def lease(self, name: str, weights: WeightSet) -> Resident:
        """Let a version have a set that is not idle any more."""
        resident = Resident(name, weights, self)
        self.leases.add(resident)
        return resident


class WeightSets:
    """Makes, fills and keeps sets. One thread loads at a time; any may forget a version."""

    def __init__(
        self,
        caches: KVCachePool,
        attention: SlabBackend,
        budget: MemoryBudget,
        new_capture: Callable[[], Capture],
        *,
        num_slots: int,
    ) -> None:
        """`new_capture` is asked once for each shape, whose graphs live and die together."""
        self._caches = caches
        self._attention = attention
        self._budget = budget
        self._new_capture = new_capture
        self._num_slots = num_slots
        self._lock = threading.Lock()
        self._groups: weakref.WeakValueDictionary[ModelConfig, _Group] = (
            weakref.WeakValueDictionary()
        )

    def load(self, name: str, config: ModelConfig, state: Mapping[str, Tensor]) -> Resident:
        """Fill an idle set with `state`, a version of model `name`; make the sets that lack.

        Raises IntegrityError for weights that do not fit and OverBudgetError.
        """
        with self._lock:
            group = self._groups.get(config)
            lacking = 2 if group is None else group.num_lacking(name)
            self._budget.check(config, num_networks=lacking)
            if group is None:
                cache = self._caches.cache_for(config)
                table = SlotTable(self._num_slots, config.vocab_size, cache.device)
                group = self._groups[config] = _Group(cache, table, self._new_capture())
            made = [self._make(config, state, group) for _ in range(lacking)]
            group.num_sets += lacking
            if made:  # with this version's weights
                resident = group.lease(name, made.pop())
                group.idle.extend(made)
            else:
                resident = group.lease(name, group.idle.popleft())
                resident.network.copy_from(self._staged(config, state, resident.network.norm))
            return resident

    def _staged(self, config: ModelConfig, state: Mapping[str, Tensor], norm: Norm) -> Network:
        """The weights as a set holds them, on the host."""
        host, dtype = torch.device("cpu"), self._caches.dtype
        return Network(config, state, device=host, dtype=dtype, layout=KMajor, norm=norm)

    def _make(self, config: ModelConfig, state: Mapping[str, Tensor], group: _Group) -> WeightSet:
        device, dtype = group.cache.device, self._caches.dtype
        network = Network(config, state, device=device, dtype=dtype, layout=KMajor)
        self._budget.count(network)
        steps = {
            (num_rows, effort): DecodeStep(
                network,
                group.cache,
                group.table,
                self._attention,
                group.capture,
                num_rows=num_rows,
                effort=effort,
            )
            for num_rows in sorted(_buckets(self._num_slots), reverse=True)
            for effort in Effort
        }
        return WeightSet(network, steps)


def _bucket(num_rows: int, num_slots: int) -> int:
    """The next power of two, or all slots."""
    return min(1 << (num_rows - 1).bit_length(), num_slots)


def _buckets(num_slots: int) -> set[int]:
    return {_bucket(num_rows, num_slots) for num_rows in range(1, num_slots + 1)}
