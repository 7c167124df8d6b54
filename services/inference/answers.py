"""A generation told in OpenAI's words: whole, or as the events of a stream."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from pydantic import BaseModel

from services.inference.chunks import DONE, event
from services.inference.failures import failure_of
from services.inference.loaded_model import LoadedModel
from services.inference.mailbox import Generation
from services.inference.responses import FinishName, Usage
from services.inference.sequence import Delta, FinishReason
from services.inference.shapes import AnswerShape, ChoiceWriter
from shared.base.errors import PlatformError
from shared.base.openai_errors import error_body


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerPlan:
    """How a request wants to be answered."""

    shape: AnswerShape
    model: str | None
    """The id that was asked for."""
    n: int = 1
    """Answers to each prompt."""
    candidates: int = 1
    """Answers generated for each prompt, of which the n likeliest are returned."""
    include_usage: bool = False
    """Whether a stream ends with the counts."""
    id: str = field(default_factory=lambda: uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, model: LoadedModel) -> dict[str, Any]:
        """What the answer and every event of it begin with, once it is known who answers."""
        return {
            "id": f"{self.shape.prefix}-{self.id}",
            "created": self.created,
            "model": self.model or model.name,
            "system_fingerprint": model.fingerprint,
        }


def to_json(answer: BaseModel) -> str:
    """An answer as it is sent: what was not set is absent, what was set to None is null."""
    return answer.model_dump_json(exclude_unset=True)


async def whole_answer(generation: Generation, plan: AnswerPlan) -> BaseModel:
    """Wait for the end of every choice. Raises what `failure_of` tells of a failure."""
    answers: dict[int, Delta] = {}
    ended = 0
    while ended < len(generation.sequences):
        for number, delta in (await generation.next()).items():
            answers[number] = answers[number] + delta if number in answers else delta
            if delta.error is not None:
                raise failure_of(delta)
            ended += delta.finish_reason is not None
    choices = []
    for index, number in enumerate(_returned(answers, plan)):
        writer = plan.shape.writer(generation.sequences[number])
        text, logprobs = writer.write(answers[number])
        choices.append(plan.shape.choice(index, text, logprobs, _finish_name(answers[number])))
    num_generated = sum(answer.num_tokens for answer in answers.values())
    head = plan.head(generation.sequences[0].model)
    return plan.shape.whole(head, choices, _usage(generation, plan, num_generated))


async def answer_events(generation: Generation, plan: AnswerPlan) -> AsyncGenerator[bytes, None]:
    """The events of a stream, `[DONE]` last; what comes at once is handed on in one piece.

    A failure before the first event is raised, as `failure_of` tells it; a later one is an event
    of its own.
    """
    pending = await generation.next()
    _raise_first_failure(pending)
    head = plan.head(generation.sequences[0].model)
    chunks = plan.shape.chunks(head, null_usage=plan.include_usage)
    writers = [plan.shape.writer(sequence) for sequence in generation.sequences]
    events = [chunks.opening(number) for number in range(len(writers))]
    num_generated, running = 0, len(writers)
    while True:
        for number, delta in pending.items():
            events.append(_piece(chunks.piece, number, writers[number], delta))
            num_generated += delta.num_tokens
            if delta.error is not None:
                yield b"".join([*events, error_events(failure_of(delta))])
                return
            if delta.finish_reason is not None:
                events.append(chunks.closing(number, _finish_name(delta)))
                running -= 1
        if not running:
            break
        yield b"".join(events)  # the first one even if empty: the answer has begun
        events.clear()
        pending = await generation.next()
    if plan.include_usage:
        events.append(chunks.usage(_usage(generation, plan, num_generated)))
    yield b"".join([*events, DONE])


def _piece(write: Any, number: int, writer: ChoiceWriter, delta: Delta) -> bytes:
    text, logprobs = writer.write(delta)
    if logprobs is not None:
        piece: bytes = write(number, text, to_json(logprobs))
    else:
        piece = write(number, text) if text else b""
    return piece


def _raise_first_failure(deltas: dict[int, Delta]) -> None:
    for delta in deltas.values():
        if delta.error is not None:
            raise failure_of(delta)


def _returned(answers: dict[int, Delta], plan: AnswerPlan) -> list[int]:
    """Numbers of the answers to return: of each prompt's candidates the n likeliest a token."""
    if plan.candidates == plan.n:
        return sorted(answers)
    numbers: list[int] = []
    for first in range(0, len(answers), plan.candidates):
        group = range(first, first + plan.candidates)
        numbers += sorted(group, key=lambda number: -_mean_logprob(answers[number]))[: plan.n]
    return numbers


def _mean_logprob(answer: Delta) -> float:
    return sum(entry.logprob for entry in answer.logprobs) / max(1, len(answer.logprobs))


def _finish_name(delta: Delta) -> FinishName:
    return "length" if delta.finish_reason is FinishReason.LENGTH else "stop"


def error_events(error: PlatformError) -> bytes:
    """What a stream that has begun ends with when it fails."""
    body = error_body(error.status_code, error.message, param=None, code=error.code)
    return event(json.dumps(body)) + DONE


def _usage(generation: Generation, plan: AnswerPlan, num_generated: int) -> Usage:
    prompts = [sequence.prompt for sequence in generation.sequences[:: plan.candidates]]
    num_prompt = sum(map(len, prompts))
    return Usage(
        prompt_tokens=num_prompt,
        completion_tokens=num_generated,
        total_tokens=num_prompt + num_generated,
    )
