"""Held-out loss kept apart by document, so that an average comes with its uncertainty.

The text is read as in training: documents follow one another in windows, dialogues are packed and
blind to each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from services.trainer.data import Batch, document_lengths, token_stream
from services.trainer.evaluate import ValidationDialogues, ValidationWindows
from services.trainer.packing import PackedData, read_dialogues
from shared.contracts.evaluation import SourceScore
from shared.model.loss import IGNORED, token_losses
from shared.model.transformer import Transformer
from shared.text.token_set import TokenSplit

Floats = npt.NDArray[np.float64]
Owners = npt.NDArray[np.int64]


class OwnedBatches(Protocol):
    """Batches of held-out text in which every target belongs to a document."""

    documents: int

    def __iter__(self) -> Iterator[tuple[Batch, Tensor, Owners]]:
        """Yield a batch, which targets are learned (B, T), and each target's document (B, T)."""


class DocumentWindows:
    """A split's documents as one stream in windows."""

    def __init__(
        self, split: TokenSplit, *, context: int, limit: int | None, device: torch.device
    ) -> None:
        stream = token_stream(split, limit=limit)
        ends = np.cumsum(document_lengths(split), dtype=np.int64)
        self.documents = int(np.searchsorted(ends, len(stream) - 1, side="right")) + 1
        self._windows = ValidationWindows(stream, context=context, device=device)
        self._ends, self._context = ends, context

    def __iter__(self) -> Iterator[tuple[Batch, Tensor, Owners]]:
        start = 0
        for batch, learned in self._windows.batches():
            places = np.arange(start + 1, start + 1 + batch.targets.numel())
            start += batch.targets.numel()
            owners = np.searchsorted(self._ends, places, side="right")
            yield batch, learned, owners.reshape(batch.targets.shape).astype(np.int64)


class PackedDialogues:
    """A split's dialogues, packed."""

    def __init__(
        self, split: TokenSplit, *, context: int, limit: int | None, device: torch.device
    ) -> None:
        dialogues, _ = read_dialogues(split, context=context)
        self.documents = len(dialogues)
        self._data = PackedData(
            dialogues, split=split.split, context=context, seed=0, device=device
        )
        most = self._data.num_sequences * context if limit is None else limit
        self._rows = ValidationDialogues(self._data, context=context, limit=most)

    def __iter__(self) -> Iterator[tuple[Batch, Tensor, Owners]]:
        first = 0
        for batch, learned in self._rows.batches():
            rows = np.arange(first, first + len(batch.ids))
            first += len(batch.ids)
            yield batch, learned, self._data.owners(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentSums:
    """Nats and counts of D documents, each (D,). `text`: where a token stands for learned text."""

    nats: Floats
    tokens: Floats
    learned_nats: Floats
    learned_tokens: Floats
    text_nats: Floats
    text_bytes: Floats


@torch.no_grad()
def score_documents(
    model: Transformer,
    batches: OwnedBatches,
    token_bytes: Tensor,
    *,
    interrupted: Callable[[], bool],
) -> DocumentSums | None:
    """Sum losses by document; `token_bytes` (V,) are the bytes each token stands for.

    None when interrupted. Documents of which no token was predicted are left out.
    """
    sums = np.zeros((6, batches.documents))
    for batch, learned, owners in batches:
        if interrupted():
            return None
        hidden = model.hidden(batch.ids, batch.positions, batch.mask)
        losses = token_losses(hidden, model.head_weight, batch.targets).double()
        counted = batch.targets != IGNORED
        in_bytes = token_bytes[batch.targets.clamp_min(0)] * learned
        parts = (losses, counted, losses * learned, learned, losses * (in_bytes > 0), in_bytes)
        keep = counted.cpu().numpy()
        for total, part in zip(sums, parts, strict=True):
            weights = part.double().cpu().numpy()[keep]
            total += np.bincount(owners[keep], weights=weights, minlength=batches.documents)
    sums = sums[:, sums[1] > 0]
    return DocumentSums(
        nats=sums[0],
        tokens=sums[1],
        learned_nats=sums[2],
        learned_tokens=sums[3],
        text_nats=sums[4],
        text_bytes=sums[5],
    )


def bootstrap_interval(
    above: Floats, below: Floats, *, samples: int, seed: int
) -> tuple[float, float]:
    """The 95 % percentile interval of sum(above) / sum(below) over resampled documents (D,)."""
    generator = np.random.default_rng(seed)
    ratios = np.empty(samples)
    for index in range(samples):
        chosen = generator.integers(len(above), size=len(above))
        ratios[index] = above[chosen].sum() / max(below[chosen].sum(), 1.0)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def summarise(sums: DocumentSums, source: str, *, samples: int, seed: int) -> SourceScore:
    """Averages over all documents, each with its interval."""
    loss = sums.nats.sum() / max(sums.tokens.sum(), 1.0)
    bits = sums.text_nats / math.log(2)
    bits_low, bits_high = bootstrap_interval(bits, sums.text_bytes, samples=samples, seed=seed)
    loss_low, loss_high = bootstrap_interval(sums.nats, sums.tokens, samples=samples, seed=seed)
    has_roles = sums.learned_tokens.sum() < sums.tokens.sum()
    return SourceScore(
        source=source,
        documents=len(sums.nats),
        tokens=int(sums.tokens.sum()),
        text_bytes=int(sums.text_bytes.sum()),
        bits_per_byte=float(bits.sum() / max(sums.text_bytes.sum(), 1.0)),
        bits_per_byte_low=bits_low,
        bits_per_byte_high=bits_high,
        loss=float(loss),
        loss_low=loss_low,
        loss_high=loss_high,
        perplexity=float(np.exp(loss)),
        assistant_loss=(
            float(sums.learned_nats.sum() / max(sums.learned_tokens.sum(), 1.0))
            if has_roles
            else None
        ),
    )
