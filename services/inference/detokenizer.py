"""Tokens to text as they come: never half a character, never a part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Detokenizer:
    """Turns one sequence's tokens into text that may be shown at once.

    A byte-level token may end inside a UTF-8 character: its bytes wait for the rest. Text that
    may yet turn out to be the beginning of a stop string waits as well. When a stop string is
    complete, text before it is all there is, and `stopped` is true.
    """

    def __init__(self, token_contents: Sequence[bytes], stop: Sequence[str] = ()) -> None:
        """`token_contents` holds the bytes of each id; `stop` no empty string."""
        self._contents = token_contents
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(stop)
        self._held = ""
        self.stopped_by: str | None = None
        """The stop string that ended the text."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text."""
        return self.stopped_by is not None

    def push(self, token: int) -> str:
        """Return the text that `token` makes certain."""
        return self._release(self._decoder.decode(self._contents[token]))

    def flush(self) -> str:
        """Return what was held back, at the end; an incomplete character becomes U+FFFD."""
        text = self._release(self._decoder.decode(b"", final=True))
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _release(self, new: str) -> str:
        if self.stopped:
            return ""
        self._held += new
        if (found := _first_occurrence(self._held, self._stop)) is not None:
            end, self.stopped_by = found
            text, self._held = self._held[:end], ""
            return text
        keep = _longest_beginning(self._held, self._stop)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text


def _first_occurrence(text: str, stop: Sequence[str]) -> tuple[int, str] | None:
    """Where the earliest stop string begins, and which it is, if there is one."""
    found = [(at, string) for string in stop if (at := text.find(string)) >= 0]
    return min(found, default=None)


def _longest_beginning(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of `text` with which a stop string begins."""
    longest = 0
    for string in stop:
        for length in range(min(len(string) - 1, len(text)), longest, -1):
            if text.endswith(string[:length]):
                longest = length
                break
    return longest
