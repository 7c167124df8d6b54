"""Writing a dataset folder: rows streamed into `part-*.jsonl`, exact repetitions left out."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from services.tokenizer.rows import Row, text_bytes_of
from shared.base.files import atomic_write
from shared.contracts.manifest import DatasetMeta
from shared.contracts.split_rule import digest_of

PART_BYTES = 64 << 20


class DatasetWriter:
    """A context manager; a dataset is whole only when the block ends without an exception.

    Memory: one part's write buffer, and 16 bytes of digest a row when `deduplicate`.
    """

    def __init__(self, folder: Path, *, deduplicate: bool, part_bytes: int = PART_BYTES) -> None:
        self._folder = folder
        self._part_bytes = part_bytes
        self._seen: set[bytes] | None = set() if deduplicate else None
        self._stack = ExitStack()
        self._file: IO[bytes] | None = None
        self._bytes_in_part = 0
        self._parts = 0
        self.documents = 0
        self.text_bytes = 0
        self.duplicates_dropped = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def add(self, row: Row) -> bool:
        """Write a row unless an equal one has been written; return whether it was."""
        if self._seen is not None:
            digest = digest_of(row)
            if digest in self._seen:
                self.duplicates_dropped += 1
                return False
            self._seen.add(digest)
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        self._part_for(len(line)).write(line)
        self.documents += 1
        self.text_bytes += text_bytes_of(row)
        return True

    def meta(self, *, source: str, row_format: str) -> DatasetMeta:
        """Return what is known of the rows written."""
        return DatasetMeta.model_validate(
            {
                "format": row_format,
                "documents": self.documents,
                "text_bytes": self.text_bytes,
                "duplicates_dropped": self.duplicates_dropped,
                "source": source,
            }
        )

    def _part_for(self, size: int) -> IO[bytes]:
        """Return the open part, a fresh one when `size` more bytes would overfill it."""
        if self._file is None or self._bytes_in_part + size > self._part_bytes:
            self._stack.close()
            path = self._folder / f"part-{self._parts:05d}.jsonl"
            self._file = self._stack.enter_context(atomic_write(path))
            self._parts += 1
            self._bytes_in_part = 0
        self._bytes_in_part += size
        return self._file
