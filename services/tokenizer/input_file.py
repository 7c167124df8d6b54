"""Reading a file that somebody sent: plain, gzip or bzip2, as bytes or as lines of UTF-8.

Bounded, and exact about errors. Knows nothing of documents. Memory stays flat whatever it holds.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from shared.base.errors import JobFailedError

GZIP_MAGIC = b"\x1f\x8b"
BZIP2_MAGIC = b"BZh"
PIECE_BYTES = 1 << 18
TEXT_WANTED = "Send UTF-8 text, plain, gzip or bzip2."
HEAD_BYTES = 8192
MAX_EXPANSION = 200
"""Text packs 3 to 20 times; what grows more than this is no corpus."""
FREE_EXPANSION_BYTES = 64 << 20
"""Small files may expand to this in any case."""
FOREIGN_FORMATS = {
    b"PK\x03\x04": "a ZIP archive (or an Office document)",
    b"%PDF": "a PDF",
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
        or an absurdly compressed file.
        """
        with self._open() as (stream, raw):
            yield from self._decode(stream, raw, max_line_bytes)

    def pieces(self) -> Iterator[bytes]:
        """Yield the unpacked bytes, a piece at a time; raises JobFailedError as `lines` does."""
        with self._open() as (stream, raw):
            offset = 0
            while piece := stream.read(PIECE_BYTES):
                offset += len(piece)
                self._note_position(stream, raw, offset)
                yield piece

    @contextmanager
    def _open(self) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
        """Open the unpacked content, beside the file as it lies on disk."""
        with self.path.open("rb") as raw:
            magic = raw.read(max(len(GZIP_MAGIC), len(BZIP2_MAGIC)))
            raw.seek(0)
            if magic.startswith(GZIP_MAGIC):
                what, stream = "gzip", cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
            elif magic.startswith(BZIP2_MAGIC):
                what, stream = "bzip2", cast("IO[bytes]", bz2.BZ2File(raw))
            else:
                yield raw, raw
                return
            try:
                with stream:
                    yield stream, raw
            except (EOFError, OSError, zlib.error) as error:
                raise self._fail(f"is a damaged {what} file: {error}", "Send it again.") from error

    def _decode(self, stream: IO[bytes], raw: IO[bytes], max_line_bytes: int) -> Iterator[Line]:
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
            self._note_position(stream, raw, offset)
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
                raise self._fail(f"is {what}, not UTF-8 text", TEXT_WANTED)
        if b"\0" in head:
            where = head.index(b"\0")
            raise self._fail(
                f"is a binary file: there is a NUL byte at offset {where}",
                TEXT_WANTED,
            )

    def _note_position(self, stream: IO[bytes], raw: IO[bytes], offset: int) -> None:
        """Note how far the file has been read; refuse one that has unpacked to far too much."""
        self.bytes_read = raw.tell()
        limit = max(FREE_EXPANSION_BYTES, MAX_EXPANSION * self.total_bytes)
        if stream is not raw and offset > limit:
            raise self._fail(
                f"unpacks to more than {limit} bytes, {MAX_EXPANSION} times its size",
                "Send the text itself, or in several files.",
            )

    def _fail(self, what: str, hint: str) -> JobFailedError:
        return JobFailedError(f"{self.name} {what}.", hint=hint)
