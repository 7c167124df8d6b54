"""The events of a stream, as bytes: everything that repeats is written once, text is escaped.

A chunk through pydantic costs as much as a small model needs for a token; a test holds both equal.
"""

from __future__ import annotations

from json.encoder import encode_basestring as quoted
from typing import Protocol

from services.inference.responses import FinishName, Usage

DONE = b"data: [DONE]\n\n"


def event(json_text: str) -> bytes:
    """One server-sent event."""
    return f"data: {json_text}\n\n".encode()


class Chunks(Protocol):
    """How one kind of stream is written; `logprobs` is JSON."""

    def opening(self, choice: int) -> bytes:
        """What a choice begins with; may be nothing."""

    def piece(self, choice: int, text: str, logprobs: str = "null") -> bytes:
        """An event that adds text to a choice."""

    def closing(self, choice: int, finish_reason: FinishName) -> bytes:
        """The event that says why a choice ended."""

    def usage(self, usage: Usage) -> bytes:
        """The event with the counts, which has no choice."""


class _Frame:
    """The constant beginning and end of a stream's chunks."""

    def __init__(self, head: str, *, null_usage: bool) -> None:
        """`head` is the JSON of what all chunks begin with, without its braces."""
        self._start = f'data: {{{head},"choices":['
        self._choice = self._start + '{"index":'
        self._end = '}],"usage":null}\n\n' if null_usage else "}]}\n\n"

    def usage(self, usage: Usage) -> bytes:
        """See Chunks."""
        return f'{self._start}],"usage":{usage.model_dump_json()}}}\n\n'.encode()


class CompletionChunks(_Frame):
    """`text_completion`, piece by piece."""

    def opening(self, choice: int) -> bytes:
        """Completions have none."""
        del choice
        return b""

    def piece(self, choice: int, text: str, logprobs: str = "null") -> bytes:
        """See Chunks."""
        return (
            f'{self._choice}{choice},"text":{quoted(text)},"logprobs":{logprobs},'
            f'"finish_reason":null{self._end}'
        ).encode()

    def closing(self, choice: int, finish_reason: FinishName) -> bytes:
        """See Chunks."""
        return (
            f'{self._choice}{choice},"text":"","logprobs":null,'
            f'"finish_reason":"{finish_reason}"{self._end}'
        ).encode()


class ChatChunks(_Frame):
    """`chat.completion.chunk`."""

    def opening(self, choice: int) -> bytes:
        """The first delta of a choice names the role."""
        return (
            f'{self._choice}{choice},"delta":{{"role":"assistant","content":""}},'
            f'"logprobs":null,"finish_reason":null{self._end}'
        ).encode()

    def piece(self, choice: int, text: str, logprobs: str = "null") -> bytes:
        """See Chunks."""
        return (
            f'{self._choice}{choice},"delta":{{"content":{quoted(text)}}},'
            f'"logprobs":{logprobs},"finish_reason":null{self._end}'
        ).encode()

    def closing(self, choice: int, finish_reason: FinishName) -> bytes:
        """See Chunks."""
        return (
            f'{self._choice}{choice},"delta":{{}},"logprobs":null,'
            f'"finish_reason":"{finish_reason}"{self._end}'
        ).encode()
