"""Dialogues out of JSONL: `{"messages": [{"role": "user", "content": ...}, ...]}`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from services.tokenizer.documents import json_objects
from services.tokenizer.input_file import InputFile
from services.tokenizer.rows import Row
from shared.base.errors import InvalidInputError, JobFailedError
from shared.contracts.data_specs import IngestSpec
from shared.text.chat import Message, check_dialogue
from shared.text.tokenizer import check_encodable


def dialogues(file: InputFile, spec: IngestSpec) -> Iterator[Row]:
    """Yield the dialogues of a JSONL file; other keys than `messages` are ignored.

    Raises JobFailedError with the line number unless turns alternate, begin with the user's and
    hold one of the assistant's. A dialogue above `spec.max_document_chars` is cut after an answer.
    """
    for number, value in json_objects(file):
        try:
            messages = _messages(value.get("messages"))
            check_dialogue(messages)
            for message in messages:
                check_encodable(message["content"])
        except InvalidInputError as error:
            raise JobFailedError(
                f"{file.name}, line {number}: {error.message}",
                hint=error.hint or 'A line is {"messages": [{"role": ..., "content": ...}, ...]}.',
            ) from error
        for piece in cut_dialogue(messages, spec.max_document_chars):
            yield {"messages": piece}


def cut_dialogue(messages: Sequence[Message], max_chars: int) -> Iterator[list[Message]]:
    """Yield a dialogue in pieces of at most `max_chars`, each beginning with a question.

    A question is never parted from its answer, so a long pair stays whole. A last question
    without an answer teaches nothing and is left out.
    """
    piece: list[Message] = []
    chars = 0
    for question, answer in zip(messages[::2], messages[1::2], strict=False):
        size = len(question["content"]) + len(answer["content"])
        if piece and chars + size > max_chars:
            yield piece
            piece, chars = [], 0
        piece += [question, answer]
        chars += size
    yield piece


def _messages(value: Any) -> list[Message]:
    """Return the messages with nothing but role and content; InvalidInputError for other shapes."""
    if not isinstance(value, list):
        raise InvalidInputError("There is no list of messages.")
    messages: list[Message] = []
    for position, entry in enumerate(value, start=1):
        role = entry.get("role") if isinstance(entry, dict) else None
        content = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise InvalidInputError(f"Message {position} lacks a role or a content that is text.")
        # An unknown role is kept for check_dialogue, which names it.
        messages.append({"role": role, "content": content})  # type: ignore[typeddict-item]
    return messages
