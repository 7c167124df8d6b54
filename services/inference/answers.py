"""A generation told in OpenAI's words: whole, or as the events of a stream."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from uuid import uuid4

from pydantic import BaseModel

from services.inference.mailbox import Generation
from services.inference.responses import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChunkChoice,
    Completion,
    CompletionChoice,
    FinishName,
    Usage,
)
from services.inference.sequence import FinishReason
from services.inference.streaming import DONE, event
from shared.base.errors import PlatformError
from shared.base.openai_errors import error_body

CHUNK: Literal["chat.completion.chunk"] = "chat.completion.chunk"


class GenerationFailedError(PlatformError):
    """The engine could not finish an answer."""

    code = "generation_failed"


class AnswerShape(Protocol):
    """How one kind of answer is written."""

    def opening(self) -> BaseModel | None:
        """The first event of a stream."""

    def piece(self, text: str) -> BaseModel:
        """An event that adds text."""

    def closing(self, finish_reason: FinishName) -> BaseModel:
        """The event that says why the answer ended."""

    def usage(self, usage: Usage) -> BaseModel:
        """The event with the counts."""

    def whole(self, text: str, finish_reason: FinishName, usage: Usage) -> BaseModel:
        """The answer in one piece."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerHead:
    """What every event of an answer repeats."""

    prefix: str
    """`cmpl` or `chatcmpl`."""
    model: str
    """The id that was asked for."""
    system_fingerprint: str
    null_usage: bool = False
    """Whether events before the usage carry `usage: null`."""
    id: str = field(init=False)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{self.prefix}-{uuid4().hex}")

    def fields(self, **more: Any) -> dict[str, Any]:
        """Keyword arguments for an answer's class."""
        fields = {
            "id": self.id,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
        }
        return {**fields, **({"usage": None} if self.null_usage else {}), **more}


@dataclass(frozen=True, slots=True)
class CompletionShape:
    """`text_completion`."""

    head: AnswerHead

    def opening(self) -> None:
        """Completions have none."""

    def piece(self, text: str) -> Completion:
        """See AnswerShape."""
        return self._completion(text, None)

    def closing(self, finish_reason: FinishName) -> Completion:
        """See AnswerShape."""
        return self._completion("", finish_reason)

    def usage(self, usage: Usage) -> Completion:
        """See AnswerShape."""
        return Completion(object="text_completion", **self.head.fields(choices=[], usage=usage))

    def whole(self, text: str, finish_reason: FinishName, usage: Usage) -> Completion:
        """See AnswerShape."""
        return self._completion(text, finish_reason, usage=usage)

    def _completion(self, text: str, finish_reason: FinishName | None, **more: Usage) -> Completion:
        choice = CompletionChoice(index=0, text=text, logprobs=None, finish_reason=finish_reason)
        return Completion(object="text_completion", **self.head.fields(choices=[choice], **more))


@dataclass(frozen=True, slots=True)
class ChatShape:
    """`chat.completion` and its chunks."""

    head: AnswerHead

    def opening(self) -> ChatCompletionChunk:
        """The first delta names the role."""
        return self._chunk(ChatDelta(role="assistant", content=""), None)

    def piece(self, text: str) -> ChatCompletionChunk:
        """See AnswerShape."""
        return self._chunk(ChatDelta(content=text), None)

    def closing(self, finish_reason: FinishName) -> ChatCompletionChunk:
        """See AnswerShape."""
        return self._chunk(ChatDelta(), finish_reason)

    def usage(self, usage: Usage) -> ChatCompletionChunk:
        """See AnswerShape."""
        return ChatCompletionChunk(object=CHUNK, **self.head.fields(choices=[], usage=usage))

    def whole(self, text: str, finish_reason: FinishName, usage: Usage) -> ChatCompletion:
        """See AnswerShape."""
        message = AssistantMessage(role="assistant", content=text, refusal=None)
        choice = ChatChoice(index=0, message=message, logprobs=None, finish_reason=finish_reason)
        return ChatCompletion(
            object="chat.completion", **self.head.fields(choices=[choice], usage=usage)
        )

    def _chunk(self, delta: ChatDelta, finish_reason: FinishName | None) -> ChatCompletionChunk:
        choice = ChunkChoice(index=0, delta=delta, logprobs=None, finish_reason=finish_reason)
        return ChatCompletionChunk(object=CHUNK, **self.head.fields(choices=[choice]))


def to_json(answer: BaseModel) -> str:
    """An answer as it is sent: what was not set is absent, what was set to None is null."""
    return answer.model_dump_json(exclude_unset=True)


async def whole_answer(generation: Generation, shape: AnswerShape) -> BaseModel:
    """Wait for the end. Raises GenerationFailedError."""
    text = ""
    while True:
        delta = await generation.next()
        text += delta.text
        if delta.error:
            raise GenerationFailedError(delta.error)
        if delta.finish_reason is not None:
            finish_reason = _finish_name(delta.finish_reason)
            return shape.whole(text, finish_reason, _usage(generation))


async def answer_events(
    generation: Generation, shape: AnswerShape, *, include_usage: bool
) -> AsyncIterator[bytes]:
    """The events of a stream, `[DONE]` last; a failure on the way is an event of its own."""
    opening = shape.opening()
    if opening is not None:
        yield event(to_json(opening))
    finish_reason = None
    while finish_reason is None:
        delta = await generation.next()
        if delta.text:
            yield event(to_json(shape.piece(delta.text)))
        if delta.error:
            body = error_body(500, delta.error, param=None, code=GenerationFailedError.code)
            yield event(json.dumps(body))
            break
        finish_reason = delta.finish_reason
    else:
        yield event(to_json(shape.closing(_finish_name(finish_reason))))
        if include_usage:
            yield event(to_json(shape.usage(_usage(generation))))
    yield DONE


def _finish_name(reason: FinishReason) -> FinishName:
    return "length" if reason is FinishReason.LENGTH else "stop"


def _usage(generation: Generation) -> Usage:
    num_prompt, num_generated = len(generation.sequence.prompt), generation.num_tokens
    return Usage(
        prompt_tokens=num_prompt,
        completion_tokens=num_generated,
        total_tokens=num_prompt + num_generated,
    )
