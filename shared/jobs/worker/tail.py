"""Follows a file that another process appends to, line by line."""

from __future__ import annotations

from pathlib import Path

READ_BYTES = 1 << 18
MAX_LINE_BYTES = 1 << 20
"""A longer line comes in pieces, so that no process can fill our memory."""


class Tail:
    """New whole lines of a growing file; the beginning of an unfinished one is kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._partial = b""

    def read_lines(self) -> list[bytes]:
        """Return the lines (without newline) that are complete since the last call.

        Reads up to 256 KiB at a time: call again until nothing comes to reach the end.
        """
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read(READ_BYTES)
        self._offset += len(content)
        *lines, self._partial = (self._partial + content).split(b"\n")
        if len(self._partial) > MAX_LINE_BYTES:
            lines.append(self._partial)
            self._partial = b""
        return lines

    def read_rest(self) -> list[bytes]:
        """Return what follows the last newline; call it when the writer has ended."""
        rest, self._partial = self._partial, b""
        return [rest] if rest else []

    @property
    def at_end(self) -> bool:
        """Whether everything that is in the file now has been read."""
        return self._path.stat().st_size <= self._offset
