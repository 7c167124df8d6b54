"""One step of generation over memory that stays where it is, so that it can be a CUDA graph.

embed -> layers -> logits -> wishes -> draw -> next input, for a number of rows: the host writes
which slots they are in and runs it. What it reads beside (tokens, lengths, wishes) is in the slot
table, where the step before has left it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from services.inference.attention import SlabBackend
from services.inference.kv_cache import KVCache
from services.inference.network import Network, PackedBatch
from services.inference.resident.sampling import Effort, sample_slots
from services.inference.resident.slot_table import SlotTable
from services.inference.transfer import to_device

Run = Callable[[], None]


class Capture(Protocol):
    """Makes something that can be run again out of a function over fixed memory."""

    def __call__(self, compute: Run) -> Run:
        """Compute at least once, and return what does the same again."""


def recompute(compute: Run) -> Run:
    """The Capture that captures nothing: each run launches the operators one by one."""
    compute()
    return compute


class CudaGraphs:
    """Captures CUDA graphs, which share their working memory: only one may run at a time."""

    WARM_UPS = 2
    """Runs before a capture: kernels are compiled and libraries make their handles."""

    def __init__(self) -> None:
        self._begin()

    def __call__(self, compute: Run) -> Run:
        """See Capture. Other threads may compute on other streams meanwhile."""
        for _ in range(self.WARM_UPS):
            compute()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                compute()
        except Exception:
            self._begin()  # a pool with an unfinished capture refuses every other one
            raise
        return graph.replay

    def _begin(self) -> None:
        """A pool, and a stream that nothing but captures runs on.

        Libraries keep working memory for each stream, and a graph goes on using that of the stream
        it was captured on: nobody else may. Streams of another priority come from a set of their
        own, and graphs run with it.
        """
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(priority=-1)  # type: ignore[no-untyped-call]


class DecodeStep:
    """A step of up to `num_rows` rows of one network."""

    logits: Tensor
    """(num_rows, V) float32 of the last run."""
    chosen: Tensor
    """(num_rows,) tokens of the last run."""

    def __init__(
        self,
        network: Network,
        cache: KVCache,
        table: SlotTable,
        attention: SlabBackend,
        capture: Capture,
        *,
        num_rows: int,
        effort: Effort,
    ) -> None:
        """Capture the step, on rows of scratch: whatever runs meanwhile is not touched."""
        self._network = network
        self._cache = cache
        self._table = table
        self._effort = effort
        self._slots = torch.full((num_rows,), table.scratch, device=cache.device)
        self._attention = attention.fix(num_rows, cache)
        self._placed: list[int] = []
        self._run = capture(self._compute)

    def run(self, slots: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Generate one token in each of `slots`; the rows' `chosen` and `logits`.

        Both are overwritten by the next run.
        """
        placed = [*slots, *[self._table.scratch] * (len(self._slots) - len(slots))]
        if placed != self._placed:
            self._slots.copy_(to_device(placed, self._slots.device), non_blocking=True)
            self._placed = placed
        self._run()
        return self.chosen[: len(slots)], self.logits[: len(slots)]

    @torch.inference_mode()
    def _compute(self) -> None:
        table, slots = self._table, self._slots
        positions = table.length[slots]
        lengths = positions + 1
        batch = PackedBatch(
            ids=table.token[slots],
            positions=positions,
            sampled=None,
            attention=self._attention.at(slots, lengths),
        )
        self.logits = self._network.forward(batch, self._cache)
        self.chosen = sample_slots(self.logits, slots, table, self._effort)
        table.length[slots] = lengths
        table.length[table.scratch :].zero_()  # its rows never leave the first place
