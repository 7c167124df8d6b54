"""The two kinds of answers: a completion's text, a chat's message. Pure data, no waiting."""

from __future__ import annotations

import json
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel

from services.inference.chunks import ChatChunks, Chunks, CompletionChunks
from services.inference.logprobs import CompletionLogprobsWriter, chat_logprobs
from services.inference.responses import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    FinishName,
    Usage,
)
from services.inference.sequence import Delta, Sequence, TokenLogprobs


class ChoiceWriter(Protocol):
    """Writes what one choice shows, all at once or piece by piece."""

    def write(self, delta: Delta) -> tuple[str, BaseModel | None]:
        """Text and logprobs to show of what has been added."""


class AnswerShape(Protocol):
    """How one kind of answer is written."""

    prefix: ClassVar[str]
    """What ids of answers begin with."""

    def writer(self, sequence: Sequence) -> ChoiceWriter:
        """For a choice whose first delta is there."""

    def choice(self, index: int, text: str, logprobs: Any, finish_reason: FinishName) -> BaseModel:
        """A choice that has ended."""

    def whole(self, head: dict[str, Any], choices: list[Any], usage: Usage) -> BaseModel:
        """The answer in one piece."""

    def chunks(self, head: dict[str, Any], *, null_usage: bool) -> Chunks:
        """The events of a stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionShape:
    """`text_completion`."""

    prefix: ClassVar[str] = "cmpl"
    echo: bool = False
    show_logprobs: bool = False
    show_stop: bool = False

    def writer(self, sequence: Sequence) -> CompletionWriter:
        """See AnswerShape."""
        return CompletionWriter(sequence, self)

    def choice(
        self, index: int, text: str, logprobs: CompletionLogprobs | None, finish_reason: FinishName
    ) -> CompletionChoice:
        """See AnswerShape."""
        return CompletionChoice(
            index=index, text=text, logprobs=logprobs, finish_reason=finish_reason
        )

    def whole(
        self, head: dict[str, Any], choices: list[CompletionChoice], usage: Usage
    ) -> Completion:
        """See AnswerShape."""
        return Completion(object="text_completion", **head, choices=choices, usage=usage)

    def chunks(self, head: dict[str, Any], *, null_usage: bool) -> CompletionChunks:
        """See AnswerShape."""
        return CompletionChunks(_json_of(head, "text_completion"), null_usage=null_usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatShape:
    """`chat.completion` and its chunks."""

    prefix: ClassVar[str] = "chatcmpl"
    show_logprobs: bool = False
    show_stop: bool = False

    def writer(self, sequence: Sequence) -> ChatWriter:
        """See AnswerShape."""
        return ChatWriter(sequence, self)

    def choice(
        self, index: int, text: str, logprobs: ChatLogprobs | None, finish_reason: FinishName
    ) -> ChatChoice:
        """See AnswerShape."""
        message = AssistantMessage(role="assistant", content=text, refusal=None)
        return ChatChoice(
            index=index, message=message, logprobs=logprobs, finish_reason=finish_reason
        )

    def whole(
        self, head: dict[str, Any], choices: list[ChatChoice], usage: Usage
    ) -> ChatCompletion:
        """See AnswerShape."""
        return ChatCompletion(object="chat.completion", **head, choices=choices, usage=usage)

    def chunks(self, head: dict[str, Any], *, null_usage: bool) -> ChatChunks:
        """See AnswerShape."""
        return ChatChunks(_json_of(head, "chat.completion.chunk"), null_usage=null_usage)


class CompletionWriter:
    """A completion's choice; with `echo`, the prompt comes before what is written first."""

    def __init__(self, sequence: Sequence, shape: CompletionShape) -> None:
        self._tokenizer = sequence.model.tokenizer
        self._echo = sequence.prompt if shape.echo else ()
        self._show_stop = shape.show_stop
        contents = self._tokenizer.token_contents
        self._logprobs = CompletionLogprobsWriter(contents) if shape.show_logprobs else None

    def write(self, delta: Delta) -> tuple[str, CompletionLogprobs | None]:
        """See ChoiceWriter."""
        text = _shown(delta, self._tokenizer.token_contents, show_stop=self._show_stop)
        entries: list[tuple[int, TokenLogprobs | None]] = [
            (entry.token, entry) for entry in delta.logprobs
        ]
        if self._echo:
            text = self._tokenizer.decode(self._echo) + text
            entries = [*zip(self._echo, delta.prompt_logprobs or (), strict=False), *entries]
            self._echo = ()
        if self._logprobs is None or not entries:
            return text, None
        return text, self._logprobs.write(entries)


class ChatWriter:
    """A chat's choice."""

    def __init__(self, sequence: Sequence, shape: ChatShape) -> None:
        self._contents = sequence.model.tokenizer.token_contents
        self._shape = shape

    def write(self, delta: Delta) -> tuple[str, ChatLogprobs | None]:
        """See ChoiceWriter."""
        text = _shown(delta, self._contents, show_stop=self._shape.show_stop)
        if not self._shape.show_logprobs or not delta.logprobs:
            return text, None
        return text, chat_logprobs(self._contents, delta.logprobs)


def _shown(delta: Delta, contents: Items[bytes], *, show_stop: bool) -> str:
    """The text of a delta, with what ended it if that is wanted."""
    if not show_stop or delta.stop_reason is None:
        return delta.text
    if isinstance(delta.stop_reason, str):
        return delta.text + delta.stop_reason
    return delta.text + contents[delta.stop_reason].decode("utf-8", errors="replace")


def _json_of(head: dict[str, Any], kind: str) -> str:
    """The JSON of a head with its kind, without the braces around it."""
    fields = {"id": head["id"], "object": kind, **head}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))[1:-1]
