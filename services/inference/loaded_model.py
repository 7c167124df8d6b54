"""One version of one model in memory, ready to generate. It is freed with its last reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from services.inference.attention import AttentionBackend, RowLayout
from services.inference.kv_cache import KVCache
from services.inference.network import Network, PackedBatch
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
        return self.network.forward(self._pack(rows, cache), cache)

    def _pack(self, rows: Sequence[BatchRow], cache: KVCache) -> PackedBatch:
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
            ids=torch.tensor(ids, device=self.device),
            positions=torch.tensor(positions, device=self.device),
            sampled=None if len(sampled) == len(ids) else self._indices(sampled),
            attention=self.attention.prepare(layouts, shape=cache.shape, device=self.device),
        )

    def _indices(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)
