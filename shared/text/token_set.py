"""Reading a token set: memory-mapped shards of uint16 ids, document lengths, and loss masks.

The layout is `shared.contracts.manifest.SplitIndex`. Needs numpy, so no process without numpy
may import this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from shared.base.errors import IntegrityError
from shared.contracts.manifest import INDEX_NAME, SplitIndex, TokensMeta

Split = Literal["train", "validation"]

TOKEN_TYPE = np.dtype("<u2")
LENGTH_TYPE = np.dtype("<u4")
MASK_TYPE = np.dtype("u1")


def shard_path(folder: Path, split: Split, shard: int, suffix: str) -> Path:
    """Return the path of a shard's file; `suffix` is `.bin`, `.len` or `.mask`."""
    return folder / f"{split}-{shard:05d}{suffix}"


def read_index(folder: Path) -> TokensMeta:
    """Return what `index.json` says of a token set; IntegrityError when it cannot be read."""
    try:
        return TokensMeta.model_validate_json((folder / INDEX_NAME).read_bytes())
    except (OSError, ValidationError) as error:
        raise IntegrityError(f"{folder} holds no readable {INDEX_NAME}: {error}.") from error


class TokenSplit:
    """One split of a token set, mapped into memory and not read until it is used.

    tokens: one (n_i,) uint16 array a shard; every document ends with the end token.
    document_lengths: one (d_i,) uint32 array a shard, in tokens, summing to n_i; no document
        crosses shards.
    masks: one (n_i,) uint8 array a shard, 1 where the token is learned; empty for documents.
    """

    def __init__(self, folder: Path, split: Split) -> None:
        """Map the files of `split`; IntegrityError when they are not what the index says."""
        self.meta = read_index(folder)
        self.split = split
        self.index: SplitIndex = getattr(self.meta, split)
        shards = range(self.index.shards)
        self.tokens = tuple(
            _map(shard_path(folder, split, shard, ".bin"), TOKEN_TYPE) for shard in shards
        )
        self.document_lengths = tuple(
            _map(shard_path(folder, split, shard, ".len"), LENGTH_TYPE) for shard in shards
        )
        self.masks: tuple[npt.NDArray[np.uint8], ...] = ()
        if self.meta.format == "dialogues":
            self.masks = tuple(
                _map(shard_path(folder, split, shard, ".mask"), MASK_TYPE) for shard in shards
            )
        self._check(folder)

    def _check(self, folder: Path) -> None:
        """Raise IntegrityError unless sizes agree with the index and with each other."""
        tokens = [len(shard) for shard in self.tokens]
        documents = sum(len(shard) for shard in self.document_lengths)
        lengths = [int(shard.sum(dtype=np.uint64)) for shard in self.document_lengths]
        masks = [len(shard) for shard in self.masks] or tokens
        if (sum(tokens), documents) != (self.index.tokens, self.index.documents):
            raise IntegrityError(
                f"{folder}: the {self.split} split holds {sum(tokens)} tokens in {documents} "
                f"documents; its index says {self.index.tokens} in {self.index.documents}."
            )
        if tokens != lengths or tokens != masks:
            raise IntegrityError(f"{folder}: lengths or masks of {self.split} shards do not fit.")


def _map(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    try:
        if path.stat().st_size % dtype.itemsize:
            raise IntegrityError(f"{path} ends inside a number.")
        return np.memmap(path, dtype=dtype, mode="r")
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} cannot be mapped: {error}.") from error
