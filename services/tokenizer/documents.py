"""Documents out of text and JSONL files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from services.tokenizer.input_file import InputFile
from services.tokenizer.rows import Row
from shared.base.errors import InvalidInputError, JobFailedError
from shared.contracts.data_specs import IngestSpec
from shared.text.tokenizer import check_encodable

TEXT_PIECE_BYTES = 1 << 20
MAX_JSON_LINE_BYTES = 64 << 20
PARAGRAPH_DOCUMENT_CHARS = 2_000
"""Size of the documents that a text without separators is cut into."""


class DocumentCutter:
    """Collects the text of one document and gives it out in pieces of at most `max_chars`.

    A piece ends after a paragraph in its second half, else after a line, else after a word, else
    anywhere. Holds little more than one piece.
    """

    def __init__(self, max_chars: int) -> None:
        self._max_chars = max_chars
        self._parts: list[str] = []
        self._chars = 0

    def add(self, text: str) -> Iterator[str]:
        """Take more text; yield the pieces that are complete by now."""
        self._parts.append(text)
        self._chars += len(text)
        if self._chars <= self._max_chars:
            return
        whole, start = "".join(self._parts), 0
        while len(whole) - start > self._max_chars:
            end = self._cut(whole, start)
            yield from _stripped(whole[start:end])
            start = end
        self._parts, self._chars = [whole[start:]], len(whole) - start

    def finish(self) -> Iterator[str]:
        """End the document; yield what is left of it."""
        whole = "".join(self._parts)
        self._parts, self._chars = [], 0
        yield from _stripped(whole)

    def _cut(self, whole: str, start: int) -> int:
        limit = start + self._max_chars
        for separator in ("\n\n", "\n", " "):
            found = whole.rfind(separator, start + self._max_chars // 2, limit)
            if found != -1:
                return found + len(separator)
        return limit


def _stripped(text: str) -> Iterator[str]:
    """Yield `text` without the empty lines around it, if anything is left."""
    text = text.strip("\n").rstrip()
    if text.strip():
        yield text


def cut_document(text: str, max_chars: int) -> Iterator[str]:
    """Yield a text in pieces of at most `max_chars`, cut as DocumentCutter does."""
    cutter = DocumentCutter(max_chars)
    yield from cutter.add(text)
    yield from cutter.finish()


def text_documents(file: InputFile, spec: IngestSpec) -> Iterator[Row]:
    """Yield the documents of a text file.

    A line that is exactly `spec.document_separator` ends a document. A file without such a line
    is cut at paragraphs into documents of about 2,000 characters.
    """
    separator = spec.document_separator
    separated = any(line.text == separator for line in file.lines(TEXT_PIECE_BYTES))
    size = spec.max_document_chars
    cutter = DocumentCutter(size if separated else min(size, PARAGRAPH_DOCUMENT_CHARS))
    for line in file.lines(TEXT_PIECE_BYTES):
        if separated and line.ends and line.text == separator:
            pieces = cutter.finish()
        else:
            pieces = cutter.add(line.text + "\n" if line.ends else line.text)
        for piece in pieces:
            yield {"text": piece}
    for piece in cutter.finish():
        yield {"text": piece}


def json_objects(file: InputFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a JSONL file; empty lines are skipped.

    Raises JobFailedError naming the line that is not a JSON object.
    """
    for line in file.lines(MAX_JSON_LINE_BYTES):
        where = f"{file.name}, line {line.number}"
        if not line.ends:
            raise JobFailedError(f"{where} is longer than {MAX_JSON_LINE_BYTES >> 20} MiB.")
        if not line.text.strip():
            continue
        try:
            value = json.loads(line.text)
        except (ValueError, RecursionError) as error:
            raise JobFailedError(
                f"{where} is not JSON: {error}.", hint="Write one JSON object a line."
            ) from error
        if not isinstance(value, dict):
            raise JobFailedError(f"{where} is not a JSON object.")
        yield line.number, value


def jsonl_documents(file: InputFile, spec: IngestSpec) -> Iterator[Row]:
    """Yield the texts at `spec.text_field` of a JSONL file, long ones cut."""
    for number, value in json_objects(file):
        where = f"{file.name}, line {number}"
        text = value.get(spec.text_field)
        if not isinstance(text, str):
            raise JobFailedError(
                f"{where} has no text at {spec.text_field!r}.",
                hint=f"Its keys are: {', '.join(sorted(value)[:10]) or 'none'}. Set text_field.",
            )
        try:
            check_encodable(text)
        except InvalidInputError as error:
            raise JobFailedError(f"{where}: {error.message}", hint=error.hint) from error
        for piece in cut_document(text, spec.max_document_chars):
            yield {"text": piece}
