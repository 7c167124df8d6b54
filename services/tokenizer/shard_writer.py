"""Writing one split of a token set: shards of ids, document lengths and masks, streamed."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import numpy.typing as npt

from shared.base.errors import JobFailedError
from shared.base.files import atomic_write
from shared.contracts.manifest import SplitIndex
from shared.contracts.names import FailureCode
from shared.text.token_set import LENGTH_TYPE, MASK_TYPE, TOKEN_TYPE, Split, shard_path


class ShardWriter:
    """A context manager; the shards are whole only when the block ends without an exception."""

    def __init__(self, folder: Path, split: Split, *, shard_tokens: int, masked: bool) -> None:
        self._folder = folder
        self._split = split
        self._shard_tokens = shard_tokens
        self._suffixes = (".bin", ".len", ".mask") if masked else (".bin", ".len")
        self._stack = ExitStack()
        self._files: dict[str, IO[bytes]] = {}
        self._room = 0
        self._shards = 0
        self._documents = 0
        self._tokens = 0
        self._text_bytes = 0
        self._learned_tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def add(
        self,
        ids: npt.NDArray[np.uint16],
        mask: npt.NDArray[np.uint8] | None,
        *,
        text_bytes: int,
    ) -> None:
        """Append a document: ids (n,), mask (n,) or None, and the bytes of its text.

        Raises JobFailedError for a document that is longer than a shard: none is ever divided.
        """
        if len(ids) > self._shard_tokens:
            raise JobFailedError(
                f"A document has {len(ids)} tokens; a shard holds {self._shard_tokens} at most.",
                code=FailureCode.BAD_SPEC,
                hint="Raise shard_tokens, or ingest with a smaller max_document_chars.",
            )
        if len(ids) > self._room:
            self._open_shard()
        self._files[".bin"].write(ids.astype(TOKEN_TYPE, copy=False).tobytes())
        self._files[".len"].write(np.array(len(ids), LENGTH_TYPE).tobytes())
        if mask is not None:
            self._files[".mask"].write(mask.astype(MASK_TYPE, copy=False).tobytes())
        self._room -= len(ids)
        self._documents += 1
        self._tokens += len(ids)
        self._text_bytes += text_bytes
        self._learned_tokens += len(ids) if mask is None else int(mask.sum(dtype=np.int64))

    def index(self) -> SplitIndex:
        """Return what has been written."""
        return SplitIndex(
            shards=self._shards,
            documents=self._documents,
            tokens=self._tokens,
            text_bytes=self._text_bytes,
            learned_tokens=self._learned_tokens,
        )

    def _open_shard(self) -> None:
        self._stack.close()
        self._files = {
            suffix: self._stack.enter_context(
                atomic_write(shard_path(self._folder, self._split, self._shards, suffix))
            )
            for suffix in self._suffixes
        }
        self._shards += 1
        self._room = self._shard_tokens
