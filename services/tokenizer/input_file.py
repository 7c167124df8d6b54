"""Reading an uploaded file as lines of UTF-8: plain or gzip, bounded, and exact about errors.

Knows nothing of documents. Memory stays flat whatever the file holds.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from shared.base.errors import JobFailedError

GZIP_MAGIC = b"\x1f\x8b"
HEAD_BYTES = 8192
MAX_EXPANSION = 200
"""Text packs 3 to 20 times; what grows more than this is no corpus."""
FREE_EXPANSION_BYTES = 1 << 30
"""Small files may expand to this in any case."""
FOREIGN_FORMATS = {
    b"PK\x03\x04": "a ZIP archive (or an Office document)",
    b"%PDF": "a PDF",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"PAR1": "a Parquet file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line, or a part of one that is longer than the reader's limit."""

    number: int
    """From 1."""
    text: str
    """Without its line end."""
    ends: bool
    """Whether the line ends here; when not, the next Line continues it."""


class InputFile:
    """One upload. `name` is what its owner calls it, for messages."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.total_bytes = path.stat().st_size
        self.bytes_read = 0
        """Position in the file as it lies on disk, for progress."""

    def lines(self, max_line_bytes: int) -> Iterator[Line]:
        """Yield the lines; a longer one comes in parts of at most `max_line_bytes`.

        Raises JobFailedError, saying where, for a binary file, bytes that are not UTF-8, a damaged
        or an absurdly compressed gzip file.
        """
        with self.path.open("rb") as raw:
            compressed = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
            raw.seek(0)
            if not compressed:
                yield from self._decode(raw, raw, max_line_bytes)
                return
            with gzip.GzipFile(fileobj=raw) as unpacked:
                try:
                    yield from self._decode(unpacked, raw, max_line_bytes)
                except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                    raise self._fail(
                        f"is a damaged gzip file: {error}", "Send it again."
                    ) from error

    def _decode(
        self, stream: IO[bytes] | gzip.GzipFile, raw: IO[bytes], max_line_bytes: int
    ) -> Iterator[Line]:
        self._refuse_binary(stream.read(HEAD_BYTES))
        stream.seek(0)
        decoder = codecs.getincrementaldecoder("utf-8")("strict")
        number, offset = 1, 0
        while chunk := stream.readline(max_line_bytes):
            ends = chunk.endswith(b"\n") or len(chunk) < max_line_bytes
            text = self._decode_chunk(decoder, chunk, ends, number, offset)
            if offset == 0:
                text = text.removeprefix("\ufeff")
            offset += len(chunk)
            self._refuse_bomb(stream is not raw, offset)
            self.bytes_read = raw.tell()
            yield Line(number=number, text=text.removesuffix("\n").removesuffix("\r"), ends=ends)
            number += ends
        self._decode_chunk(decoder, b"", True, number, offset)

    def _decode_chunk(
        self,
        decoder: codecs.IncrementalDecoder,
        chunk: bytes,
        ends: bool,
        number: int,
        offset: int,
    ) -> str:
        """Decode what lies at `offset` in line `number`; `decoder` may hold a begun character."""
        pending = len(decoder.getstate()[0])
        try:
            return decoder.decode(chunk, final=ends)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            where = f"offset {offset - pending + error.start}, line {number}"
            raise self._fail(
                f"is not UTF-8: byte 0x{byte:02x} at {where}",
                "Convert it, for example with: iconv -f WINDOWS-1252 -t UTF-8",
            ) from error

    def _refuse_binary(self, head: bytes) -> None:
        for magic, what in FOREIGN_FORMATS.items():
            if head.startswith(magic):
                raise self._fail(f"is {what}, not UTF-8 text", "Send UTF-8 text, plain or gzip.")
        if b"\0" in head:
            where = head.index(b"\0")
            raise self._fail(
                f"is a binary file: there is a NUL byte at offset {where}",
                "Send UTF-8 text, plain or gzip.",
            )

    def _refuse_bomb(self, compressed: bool, offset: int) -> None:
        limit = max(FREE_EXPANSION_BYTES, MAX_EXPANSION * self.total_bytes)
        if compressed and offset > limit:
            raise self._fail(
                f"unpacks to more than {limit} bytes, {MAX_EXPANSION} times its size",
                "Send the text itself, or in several files.",
            )

    def _fail(self, what: str, hint: str) -> JobFailedError:
        return JobFailedError(f"{self.name} {what}.", hint=hint)
