"""From a client's wishes to resolved sampling parameters, or a clear refusal."""

from __future__ import annotations

import secrets

from services.inference.loaded_model import LoadedModel
from services.inference.prompts import check_ids, context_exceeded
from services.inference.schemas import (
    MAX_SEED,
    ChatCompletionRequest,
    CompletionRequest,
    SamplingRequest,
)
from services.inference.sequence import SamplingParams
from shared.base.errors import InvalidInputError

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default for completions."""


def completion_sampling(
    request: CompletionRequest, model: LoadedModel, *, num_prompt_tokens: int
) -> SamplingParams:
    """Parameters of a completion. Raises InvalidInputError with a pointer to the field at fault."""
    if request.max_tokens == 0 and not request.echo:
        raise _refused("max_tokens", "0 needs echo: nothing would come back.")
    if (request.best_of or 1) > 1 and request.logprobs is None:
        request = request.model_copy(update={"logprobs": 0})  # to tell which are the likeliest
    default = max(DEFAULT_COMPLETION_TOKENS, request.min_tokens or 0)
    return _resolve(
        request,
        model,
        room=_room(model, num_prompt_tokens, pointer="/prompt", answers=request.max_tokens != 0),
        max_tokens=default if request.max_tokens is None else request.max_tokens,
        end_ids=frozenset({model.tokenizer.end_id}),
        logprobs=request.logprobs,
        prompt_logprobs=request.logprobs if request.echo else None,
    )


def chat_sampling(
    request: ChatCompletionRequest, model: LoadedModel, *, num_prompt_tokens: int
) -> SamplingParams:
    """Parameters of a chat. Raises InvalidInputError with a pointer to the field at fault."""
    if request.top_logprobs is not None and not request.logprobs:
        raise _refused("top_logprobs", "is only allowed with logprobs.")
    tokenizer = model.tokenizer
    return _resolve(
        request,
        model,
        room=_room(model, num_prompt_tokens, pointer="/messages"),
        max_tokens=request.max_completion_tokens or request.max_tokens,
        end_ids=frozenset({tokenizer.end_id, tokenizer.user_id, tokenizer.assistant_id}),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
    )


def for_each_answer(sampling: SamplingParams, count: int) -> list[SamplingParams]:
    """The parameters of `count` answers to one prompt: they differ in their seeds."""
    return [sampling.for_choice(number) for number in range(count)]


def _resolve(
    request: SamplingRequest,
    model: LoadedModel,
    *,
    room: int,
    max_tokens: int | None,
    end_ids: frozenset[int],
    logprobs: int | None,
    prompt_logprobs: int | None = None,
) -> SamplingParams:
    """Fill in defaults; `max_tokens` None means all the `room` there is."""
    min_tokens = request.min_tokens or 0
    if max_tokens is not None and min_tokens > max_tokens:
        raise _refused("min_tokens", f"{min_tokens} is above max_tokens {max_tokens}.")
    stop = [request.stop] if isinstance(request.stop, str) else request.stop
    stop_ids = check_ids(request.stop_token_ids or [], model, pointer="/stop_token_ids")
    return SamplingParams(
        max_tokens=room if max_tokens is None else min(room, max_tokens),
        seed=secrets.randbelow(MAX_SEED) if request.seed is None else request.seed,
        temperature=_or(request.temperature, 1.0),
        top_k=max(0, request.top_k or 0),
        top_p=_or(request.top_p, 1.0),
        min_p=_or(request.min_p, 0.0),
        repetition_penalty=_or(request.repetition_penalty, 1.0),
        frequency_penalty=_or(request.frequency_penalty, 0.0),
        presence_penalty=_or(request.presence_penalty, 0.0),
        logit_bias=_biases(request, model),
        min_tokens=min_tokens,
        end_ids=(frozenset() if request.ignore_eos else end_ids) | frozenset(stop_ids),
        stop=tuple(stop or ()),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def _room(model: LoadedModel, num_prompt_tokens: int, *, pointer: str, answers: bool = True) -> int:
    """Tokens that fit after the prompt; at least one unless no answer is wanted."""
    room = model.context_length - num_prompt_tokens
    if room < (1 if answers else 0):
        raise context_exceeded(model, str(num_prompt_tokens), pointer)
    return room


def _biases(request: SamplingRequest, model: LoadedModel) -> tuple[tuple[int, float], ...]:
    biases = {int(token): bias for token, bias in (request.logit_bias or {}).items()}
    check_ids(list(biases), model, pointer="/logit_bias")
    return tuple(biases.items())


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _refused(field: str, reason: str) -> InvalidInputError:
    return InvalidInputError(f"{field} {reason}", code="invalid_value", pointer=f"/{field}")
