"""What the model sees at each step: batches of windows or packed dialogues, and their order.

Tokens stay on the device from the start; a batch is gathered there by index. The order is a pure
function of (seed, epoch, index), so the only state to resume from is a count of sequences.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shared.base.errors import JobFailedError
from shared.contracts.names import FailureCode
from shared.text.token_set import TokenSplit

Indices = npt.NDArray[np.int64]
WORD_MASK = 0xFFFF
"""Turns a uint16 id, carried as int16 because torch can hardly index uint16, back."""

SHOWN_RUNS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One micro-batch on its device: B rows of T positions."""

    ids: Tensor
    """(B, T) int64."""
    targets: Tensor
    """(B, T) int64: the next token, or IGNORED where the loss does not count."""
    positions: Tensor | None = None
    """(B, T) int64 places inside each dialogue; None means 0, 1, 2, ..."""
    mask: Tensor | None = None
    """(B, 1, T, T) bool: who may see whom; None means plainly causal."""

    def first(self, rows: int) -> Batch:
        """Its first rows."""
        return Batch(
            ids=self.ids[:rows],
            targets=self.targets[:rows],
            positions=None if self.positions is None else self.positions[:rows],
            mask=None if self.mask is None else self.mask[:rows],
        )


class TrainingData(Protocol):
    """Sequences by (epoch, index)."""

    @property
    def num_sequences(self) -> int:
        """Sequences in one epoch."""

    def batch(self, epochs: Indices, rows: Indices) -> Batch:
        """Gather one micro-batch."""

    def counts(self, rows: Indices) -> tuple[int, int]:
        """Return (targets the loss counts, tokens fed) of these rows, without any device."""

    def describe(self, epochs: Indices, rows: Indices) -> str:
        """Say which documents these rows were cut from, for a person who will look at them."""


class DataOrder:
    """Maps the n-th sequence of a run to its (epoch, row): each epoch is a permutation."""

    def __init__(self, *, seed: int, num_sequences: int) -> None:
        self.seed, self.num_sequences = seed, num_sequences
        self._permutations: dict[int, Indices] = {}

    def locate(self, first: int, count: int) -> tuple[Indices, Indices]:
        """Return epochs (count,) and rows (count,) of sequences first .. first + count - 1."""
        sequences = np.arange(first, first + count, dtype=np.int64)
        epochs, places = np.divmod(sequences, self.num_sequences)
        rows = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._permutation(int(epoch))[places[here]]
        return epochs, rows

    def _permutation(self, epoch: int) -> Indices:
        """The epoch's order; the last two epochs are remembered, as a step may straddle them."""
        if epoch not in self._permutations:
            while len(self._permutations) > 1:
                del self._permutations[min(self._permutations)]
            generator = np.random.default_rng([self.seed, epoch])
            self._permutations[epoch] = generator.permutation(self.num_sequences)
        return self._permutations[epoch]


class WindowData:
    """Pretraining: contiguous windows of context + 1 tokens over the whole stream.

    The stream is a ring, and each epoch cuts it at another place (epoch 0 at its beginning), so
    that no token is always at the edge of a window and none is left out for ever.
    """

    def __init__(
        self,
        stream: npt.NDArray[np.uint16],
        *,
        context: int,
        seed: int,
        device: torch.device,
        document_lengths: npt.NDArray[np.uint32] | None = None,
    ) -> None:
        """`document_lengths`, in tokens: without them the stream is one document."""
        if len(stream) <= context:
            raise too_few_tokens(len(stream), context)
        self.context, self.seed = context, seed
        lengths = [len(stream)] if document_lengths is None else document_lengths
        self._document_ends = np.cumsum(lengths, dtype=np.int64)
        self.stream = ids_to_device(stream, device)
        self._steps = torch.arange(context + 1, device=device)

    @property
    def num_sequences(self) -> int:
        """Whole windows in the stream."""
        return len(self.stream) // self.context

    def batch(self, epochs: Indices, rows: Indices) -> Batch:
        """Gather windows (B, context + 1) and split them into ids and next tokens."""
        starts = self._starts(epochs, rows)
        places = torch.from_numpy(starts).to(self.stream.device)[:, None] + self._steps
        windows = self.stream[places % len(self.stream)].long() & WORD_MASK
        return Batch(ids=windows[:, :-1], targets=windows[:, 1:])

    def counts(self, rows: Indices) -> tuple[int, int]:
        """Every position is fed and counted."""
        return len(rows) * self.context, len(rows) * self.context

    def describe(self, epochs: Indices, rows: Indices) -> str:
        """The documents under these windows, by their place in the training split."""
        starts = self._starts(epochs, rows) % len(self.stream)
        last_tokens = (starts + self.context) % len(self.stream)
        first = np.searchsorted(self._document_ends, starts, side="right")
        last = np.searchsorted(self._document_ends, last_tokens, side="right")
        count = len(self._document_ends)
        spans = [
            # A window at the end of the ring goes on at its beginning.
            np.arange(begin, end + 1 if end >= begin else end + 1 + count) % count
            for begin, end in zip(first, last, strict=True)
        ]
        return f"documents {numbers(np.concatenate(spans))} of the training split, counted from 0"

    def _starts(self, epochs: Indices, rows: Indices) -> Indices:
        offsets = {int(epoch): self._offset(int(epoch)) for epoch in np.unique(epochs)}
        starts: Indices = rows * self.context + np.array([offsets[int(e)] for e in epochs])
        return starts

    def _offset(self, epoch: int) -> int:
        if epoch == 0:
            return 0
        return int(np.random.default_rng([self.seed, epoch, 1]).integers(self.context))


def numbers(values: Indices) -> str:
    """Numbers for people, rising, neighbours drawn together: `3-5, 17`; long lists are cut."""
    distinct = np.unique(values)
    runs = np.split(distinct, np.flatnonzero(np.diff(distinct) > 1) + 1)
    shown = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    more = len(shown) - SHOWN_RUNS
    return ", ".join(shown[:SHOWN_RUNS]) + (f" and {more} more places" if more > 0 else "")


def ids_to_device(ids: npt.NDArray[np.uint16], device: torch.device) -> Tensor:
    """Carry uint16 ids as int16: shared with `ids` (never written) on the CPU, copied to a GPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(ids.view(np.int16)).to(device)


def too_few_tokens(tokens: int, context: int) -> JobFailedError:
    """The error for a split that does not fill one window."""
    return JobFailedError(
        f"The training split has {tokens} tokens, fewer than one window of {context + 1}.",
        code=FailureCode.BAD_DATA,
        hint="Use more text or a smaller context_length.",
    )


def token_stream(split: TokenSplit, *, limit: int | None = None) -> npt.NDArray[np.uint16]:
    """All shards of a split as one array (a map when there is one shard), at most `limit` long.

    Raises JobFailedError when an id is outside the split's vocabulary.
    """
    shards: Sequence[npt.NDArray[np.uint16]] = split.tokens
    if not shards:
        return np.empty(0, np.uint16)
    stream = shards[0] if len(shards) == 1 else np.concatenate(shards)
    stream = stream[:limit]
    check_ids(stream, split.meta.vocab_size)
    return stream


def document_lengths(split: TokenSplit) -> npt.NDArray[np.uint32]:
    """Tokens of each document of a split, all shards in order."""
    return np.concatenate([np.empty(0, np.uint32), *split.document_lengths])


def check_ids(ids: npt.NDArray[np.uint16], vocab_size: int) -> None:
    """Raise JobFailedError when an id is not below `vocab_size`."""
    largest = int(ids.max(initial=0))
    if largest >= vocab_size:
        raise JobFailedError(
            f"The token set holds id {largest}, but its vocabulary ends at {vocab_size - 1}.",
            code=FailureCode.BAD_DATA,
            hint="Tokenize the dataset again.",
        )
