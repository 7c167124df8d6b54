"""Several datasets as one training set: how often each row is seen, decided by its content alone.

A weight says how often a training row of a dataset is seen in one epoch: 2 twice, 0.5 every second
one. Whole passes come one after the other over all datasets, so that a repetition is far from the
row it repeats; the fraction that is left takes the rows whose hash lies below it. Held-out rows are
written once, whatever the weight. A row that several datasets hold belongs to the first of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.tokenizer.rows import parse_row, read_lines
from shared.contracts.split_rule import DIGEST_BYTES, digest_of, share_of

HeldOut = Callable[[bytes], bool]
"""Says of a row's digest whether the row is held out."""
Placing = Callable[[bytes], bool | None]
"""Says of a row's digest whether the row is held out; None: it is not written in this pass."""
Owners = Mapping[bytes, int]
"""By digest, the place of the first dataset that holds the row; empty for a single dataset."""
SALT = b"weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One reading of one dataset."""

    folder: Path
    place: Placing


def passes(folders: Sequence[Path], weights: Sequence[float], held_out: HeldOut) -> Iterator[Pass]:
    """Yield the readings that make the mixture, in order."""
    owners = _owners(folders) if len(folders) > 1 else {}
    for number in range(math.ceil(max(weights))):
        for part, (folder, weight) in enumerate(zip(folders, weights, strict=True)):
            if weight > number:
                yield Pass(folder=folder, place=_placing(part, number, weight, owners, held_out))


def _placing(part: int, number: int, weight: float, owners: Owners, held_out: HeldOut) -> Placing:
    def place(digest: bytes) -> bool | None:
        if owners and owners[digest] != part:
            return None
        if held_out(digest):
            return True if number == 0 else None
        return False if lot_of(digest) < weight - number else None

    return place


def lot_of(digest: bytes) -> float:
    """A row's place in [0, 1) for fractions of a weight, independent of its place for the split."""
    return share_of(hashlib.blake2b(digest + SALT, digest_size=DIGEST_BYTES).digest())


def _owners(folders: Sequence[Path]) -> dict[bytes, int]:
    """Some 100 bytes a row: read before anything is encoded."""
    owners: dict[bytes, int] = {}
    for part, folder in enumerate(folders):
        for line in read_lines(folder):
            owners.setdefault(digest_of(parse_row(line)), part)
    return owners
