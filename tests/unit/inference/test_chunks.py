"""The prebuilt events are byte for byte what the answer's classes would write."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from services.inference.answers import to_json
from services.inference.chunks import Chunks
from services.inference.responses import (
    ChatCompletionChunk,
    ChatDelta,
    ChunkChoice,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Usage,
)
from services.inference.shapes import ChatShape, CompletionShape

HEAD: dict[str, Any] = {
    "id": "x-1", "created": 12, "model": 'a "name"', "system_fingerprint": "m:1-ü",
}  # fmt: skip
USAGE = Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
LOGPROBS = CompletionLogprobs(
    tokens=["é"], token_logprobs=[-0.5], top_logprobs=[None], text_offset=[0]
)


def shown(event: bytes) -> Any:
    text = event.decode()
    assert text.startswith("data: ")
    assert text.endswith("\n\n")
    assert "\n" not in text[:-2]
    return json.loads(text.removeprefix("data: "))


def as_sent(model: BaseModel) -> Any:
    return json.loads(to_json(model))


def chat_chunk(choices: list[ChunkChoice], **more: Any) -> Any:
    kind = "chat.completion.chunk"
    return as_sent(ChatCompletionChunk(object=kind, **HEAD, choices=choices, **more))


def completion(choices: list[CompletionChoice], **more: Any) -> Any:
    return as_sent(Completion(object="text_completion", **HEAD, choices=choices, **more))


@pytest.mark.parametrize("null_usage", [False, True])
@given(text=st.text())
def test_a_piece_of_text(null_usage: bool, text: str) -> None:
    more = {"usage": None} if null_usage else {}
    chunks: Chunks = CompletionShape().chunks(HEAD, null_usage=null_usage)
    choice = CompletionChoice(index=7, text=text, logprobs=None, finish_reason=None)
    assert shown(chunks.piece(7, text)) == completion([choice], **more)
    chunks = ChatShape().chunks(HEAD, null_usage=null_usage)
    delta = ChatDelta(content=text)
    said = ChunkChoice(index=7, delta=delta, logprobs=None, finish_reason=None)
    assert shown(chunks.piece(7, text)) == chat_chunk([said], **more)


def test_everything_else_of_a_completion() -> None:
    chunks = CompletionShape().chunks(HEAD, null_usage=False)
    assert chunks.opening(0) == b""
    piece = CompletionChoice(index=0, text="é", logprobs=LOGPROBS, finish_reason=None)
    assert shown(chunks.piece(0, "é", to_json(LOGPROBS))) == completion([piece])
    end = CompletionChoice(index=1, text="", logprobs=None, finish_reason="length")
    assert shown(chunks.closing(1, "length")) == completion([end])
    assert shown(chunks.usage(USAGE)) == completion([], usage=USAGE)


def test_everything_else_of_a_chat() -> None:
    chunks = ChatShape().chunks(HEAD, null_usage=False)
    first = ChunkChoice(
        index=2, delta=ChatDelta(role="assistant", content=""), logprobs=None, finish_reason=None
    )
    assert shown(chunks.opening(2)) == chat_chunk([first])
    end = ChunkChoice(index=2, delta=ChatDelta(), logprobs=None, finish_reason="stop")
    assert shown(chunks.closing(2, "stop")) == chat_chunk([end])
    assert shown(chunks.usage(USAGE)) == chat_chunk([], usage=USAGE)
