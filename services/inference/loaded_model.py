"""One version of one model in memory, ready to generate. It is freed with its last reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from services.inference.attention import AttentionBackend, RowLayout
from services.inference.kv_cache import KVCache
from services.inference.network import Network, PackedBatch
from services.inference.resident.weight_sets import Resident
from services.inference.scheduler import Row
from services.inference.transfer import to_device
from shared.contracts.serving import ModelPointer
from shared.text.tokenizer import Tokenizer


class BatchRow(NamedTuple):
    """Tokens of one sequence that a step computes."""

    ids: Sequence[int]
    start: int
    """Place of the first of them in the sequence."""
    slot: int
    num_logits: int
    """Of how many of the last of them logits are wanted."""


def batch_row(row: Row) -> BatchRow:
    """What the network has to know of a planned row."""
    return BatchRow(ids=row.ids, start=row.start, slot=row.slot, num_logits=row.num_logits)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class LoadedModel:
    """Weights, tokenizer and cache of one published version.

    Whoever generates with it holds a reference, so a version that was replaced lives exactly as
    long as the last request that began with it.
    """

    pointer: ModelPointer
    tokenizer: Tokenizer
    network: Network
    cache: KVCache
    attention: AttentionBackend
    device: torch.device
    resident: Resident | None = None
    """The set that holds the network, where versions are copied into sets."""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.pointer.model

    @property
    def version(self) -> int:
        """Its published version."""
        return self.pointer.version

    @property
    def stage(self) -> Literal["pretrain", "finetune"]:
        """`pretrain`: completes text; `finetune`: answers."""
        return self.pointer.stage

    @property
    def context_length(self) -> int:
        """Longest prompt plus answer, in tokens."""
        return self.network.config.context_length

    @property
    def fingerprint(self) -> str:
        """What an answer depended on beside the request, as OpenAI's `system_fingerprint`."""
        digest = self.pointer.manifest_sha256[:8]
        ways = [self.attention.name, self.device.type]
        if self.network.weights != "auto":
            ways.append(self.network.weights)
        return "-".join((f"{self.name}:{self.version}", digest, *ways))

    def release(self) -> None:
        """Nobody generates with this version any more, though its answers may still be read."""
        if self.resident is not None:
            self.resident.release()

    def understands(self, other: LoadedModel) -> bool:
        """Whether a request that was prepared for `other` can be answered by this version."""
        return (
            self.tokenizer.sha256 == other.tokenizer.sha256
            and self.stage == other.stage
            and self.context_length == other.context_length
        )

    def compute(self, rows: Sequence[BatchRow], cache: KVCache | None = None) -> torch.Tensor:
        """Run rows through the network; return the wanted logits (S, V), float32.

        `cache` replaces the model's own one.
        """
        cache = cache or self.cache
        return self.network.forward(self.pack(rows, cache), cache)

    def pack(self, rows: Sequence[BatchRow], cache: KVCache) -> PackedBatch:
        """Rows as the network takes them, over `cache`."""
        ids: list[int] = []
        positions: list[int] = []
        sampled: list[int] = []
        for row in rows:
            end = row.start + len(row.ids)
            ids += row.ids
            positions += range(row.start, end)
            sampled += range(len(ids) - row.num_logits, len(ids))
        layouts = [
            RowLayout(slot=r.slot, query_length=len(r.ids), key_length=r.start + len(r.ids))
            for r in rows
        ]
        return PackedBatch(
            ids=to_device(ids, self.device),
            positions=to_device(positions, self.device),
            sampled=None if len(sampled) == len(ids) else to_device(sampled, self.device),
            attention=self.attention.prepare(layouts, shape=cache.shape, device=self.device),
        )
