"""Finetuning rows: whole dialogues packed side by side, each blind to the others.

A dialogue keeps its own positions from 0 and attends to itself only, so a row computes exactly
what its dialogues would compute alone; only padding is saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from services.trainer.data import WORD_MASK, Batch, Indices, check_ids, ids_to_device, numbers
from shared.base.errors import JobFailedError
from shared.contracts.names import FailureCode
from shared.model.attention import packed_causal_mask
from shared.model.loss import IGNORED
from shared.text.token_set import TokenSplit


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """One dialogue: ids (n,) uint16 and mask (n,) uint8, 1 where a token is learned."""

    ids: npt.NDArray[np.uint16]
    mask: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """What did not fit: dialogues cut to the context, and those without a learned token left."""

    cut: int
    empty: int


def read_dialogues(split: TokenSplit, *, context: int) -> tuple[list[Dialogue], Dropped]:
    """Return the split's dialogues, each at most context + 1 tokens long.

    Raises JobFailedError when an id is outside the vocabulary.
    """
    dialogues: list[Dialogue] = []
    cut = empty = 0
    for tokens, lengths, masks in zip(
        split.tokens, split.document_lengths, split.masks, strict=True
    ):
        check_ids(tokens, split.meta.vocab_size)
        ends = np.cumsum(lengths, dtype=np.int64)
        for start, end in zip(ends - lengths, ends, strict=True):
            cut += int(end - start > context + 1)
            part = slice(int(start), int(min(end, start + context + 1)))
            # The first token is never a target, so its mask counts nothing.
            if masks[part][1:].any():
                dialogues.append(Dialogue(ids=tokens[part], mask=masks[part]))
            else:
                empty += 1
    return dialogues, Dropped(cut=cut, empty=empty)


def pack(lengths: list[int], capacity: int) -> list[list[int]]:
    """Best fit: put each item, in order, into the fullest row that still takes it.

    Lengths lie in [1, capacity]. Returns the items of each row.
    """
    rows: list[list[int]] = []
    by_space: list[list[int]] = [[] for _ in range(capacity + 1)]
    for item, length in enumerate(lengths):
        space = next((s for s in range(length, capacity + 1) if by_space[s]), None)
        if space is None:
            rows.append([])
            row, space = len(rows) - 1, capacity
        else:
            row = by_space[space].pop()
        rows[row].append(item)
        by_space[space - length].append(row)
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Packed rows on the host, all (R, T). Position t of a row predicts targets[t]."""

    ids: npt.NDArray[np.uint16]
    targets: npt.NDArray[np.uint16]
    learned: npt.NDArray[np.bool_]
    """Whether the target is one the assistant is to say."""
    segments: npt.NDArray[np.int32]
    """Which dialogue of the row, from 1; 0 is padding."""
    positions: npt.NDArray[np.int32]
    """Places inside the dialogue."""


def lay_out(dialogues: list[Dialogue], members: list[list[int]], context: int) -> Rows:
    """Write the dialogues of each row side by side; one of n tokens takes n - 1 positions."""
    shape = (len(members), context)
    rows = Rows(
        ids=np.zeros(shape, np.uint16),
        targets=np.zeros(shape, np.uint16),
        learned=np.zeros(shape, np.bool_),
        segments=np.zeros(shape, np.int32),
        positions=np.zeros(shape, np.int32),
    )
    for row, items in enumerate(members):
        start = 0
        for segment, item in enumerate(items, start=1):
            dialogue, size = dialogues[item], len(dialogues[item].ids) - 1
            here = (row, slice(start, start + size))
            rows.ids[here], rows.targets[here] = dialogue.ids[:-1], dialogue.ids[1:]
            rows.learned[here] = dialogue.mask[1:] > 0
            rows.segments[here], rows.positions[here] = segment, np.arange(size)
            start += size
    return rows


class PackedData:
    """Packed rows of a split on their device; which dialogues share a row is fixed by the seed."""

    def __init__(
        self,
        dialogues: list[Dialogue],
        *,
        split: str,
        context: int,
        seed: int,
        device: torch.device,
        loss_on: Literal["assistant", "all"] = "assistant",
    ) -> None:
        """`loss_on`: what `batch` has as targets; `whole_batch` tells both apart anyway."""
        if not dialogues:
            raise JobFailedError(
                f"The {split} split has no dialogue with an assistant's turn to learn.",
                code=FailureCode.BAD_DATA,
            )
        order = np.random.default_rng(seed).permutation(len(dialogues))
        shuffled = [dialogues[index] for index in order]
        members = pack([len(dialogue.ids) - 1 for dialogue in shuffled], context)
        rows = lay_out(shuffled, members, context)
        self._split = split
        self._dialogues_of_row = [order[items] for items in members]
        self._loss_on = loss_on
        self._fed_per_row = (rows.segments > 0).sum(axis=1)
        self._targets_per_row = self._fed_per_row if loss_on == "all" else rows.learned.sum(axis=1)
        self._ids = ids_to_device(rows.ids, device)
        self._targets = ids_to_device(rows.targets, device)
        self._learned = torch.from_numpy(rows.learned).to(device)
        self._segments = torch.from_numpy(rows.segments).to(device)
        self._positions = torch.from_numpy(rows.positions).to(device)

    @property
    def num_sequences(self) -> int:
        """Packed rows."""
        return len(self._ids)

    def batch(self, epochs: Indices, rows: Indices) -> Batch:
        """Gather rows with the tokens of `loss_on` as targets; rows do not change over epochs."""
        del epochs
        batch, learned = self.whole_batch(rows)
        if self._loss_on == "all":
            return batch
        targets = batch.targets.masked_fill(~learned, IGNORED)
        return Batch(ids=batch.ids, targets=targets, positions=batch.positions, mask=batch.mask)

    def whole_batch(self, rows: Indices) -> tuple[Batch, Tensor]:
        """Gather rows with all tokens as targets, and which are the assistant's (B, T)."""
        places = torch.from_numpy(rows).to(self._ids.device)
        segments = self._segments[places]
        targets = self._targets[places].long() & WORD_MASK
        batch = Batch(
            ids=self._ids[places].long() & WORD_MASK,
            targets=targets.masked_fill(segments == 0, IGNORED),
            positions=self._positions[places].long(),
            mask=packed_causal_mask(segments),
        )
        return batch, self._learned[places]

    def owners(self, rows: Indices) -> Indices:
        """Which dialogue, by its place among those that are learned, has each position (R, T); -1
        where there is padding."""
        segments = self._segments[torch.from_numpy(rows)].cpu().numpy()
        owners = [
            np.append(self._dialogues_of_row[int(row)], -1)[numbers - 1]
            for row, numbers in zip(rows, segments, strict=True)
        ]
        return np.stack(owners)

    def counts(self, rows: Indices) -> tuple[int, int]:
        """Targets of `batch`, and positions that are not padding."""
        return int(self._targets_per_row[rows].sum()), int(self._fed_per_row[rows].sum())

    def describe(self, epochs: Indices, rows: Indices) -> str:
        """The dialogues in these rows, by their place among those that are learned."""
        del epochs
        dialogues = np.concatenate([self._dialogues_of_row[int(row)] for row in rows])
        return f"dialogues {numbers(dialogues)} of the {self._split} split, counted from 0"
