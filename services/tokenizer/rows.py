"""One row of a dataset: `{"text": ...}` or `{"messages": [{"role", "content"}, ...]}`.

What its texts are, and how rows are read back from a dataset folder. What identifies a row and
which split it belongs to is in `shared.contracts.split_rule`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

from shared.base.errors import IntegrityError
from shared.text.chat import Message

PART_PATTERN = "part-*.jsonl"

Format = Literal["documents", "dialogues"]


class Row(TypedDict):
    """Has one of the two keys."""

    text: NotRequired[str]
    messages: NotRequired[list[Message]]


def format_of(row: Row) -> Format:
    """Say whether the row is a document or a dialogue."""
    return "dialogues" if "messages" in row else "documents"


def texts_of(row: Row) -> list[str]:
    """Return the texts of a row: one of a document, one a message of a dialogue."""
    if "messages" in row:
        return [message["content"] for message in row["messages"]]
    return [row["text"]]


def text_bytes_of(row: Row) -> int:
    """Return the UTF-8 bytes of a row's texts."""
    return sum(len(text.encode()) for text in texts_of(row))


def part_files(folder: Path) -> list[Path]:
    """Return a dataset's files in order. Raises IntegrityError when there are none."""
    parts = sorted(folder.glob(PART_PATTERN))
    if not parts:
        raise IntegrityError(f"{folder} holds no {PART_PATTERN}: this is not a dataset.")
    return parts


def read_lines(folder: Path) -> Iterator[bytes]:
    """Yield a dataset's lines, undecoded."""
    for part in part_files(folder):
        with part.open("rb") as file:
            yield from file


def parse_row(line: bytes) -> Row:
    """Return the row that a line of a dataset holds."""
    row: Row = json.loads(line)
    return row
