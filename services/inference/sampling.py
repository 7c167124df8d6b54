"""From a client's wishes to token ids and resolved sampling parameters, or a clear refusal."""

from __future__ import annotations

import secrets

from services.inference.loaded_model import LoadedModel
from services.inference.schemas import (
    MAX_SEED,
    ChatCompletionRequest,
    CompletionRequest,
    SamplingRequest,
)
from services.inference.sequence import SamplingParams
from shared.base.errors import InvalidInputError
from shared.text.chat import Message, check_messages, encode_prompt

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default for completions."""


def completion_prompt(request: CompletionRequest, model: LoadedModel) -> list[int]:
    """Token ids of a completion's prompt; an empty one is the beginning of a document."""
    prompt, tokenizer = request.prompt, model.tokenizer
    if isinstance(prompt, str):
        ids = tokenizer.encode(prompt)
    else:
        ids = [token for token in prompt or () if isinstance(token, int)]
        for position, token in enumerate(ids):
            if not 0 <= token < tokenizer.vocab_size:
                raise InvalidInputError(
                    f"Token {token} at position {position} is not in the vocabulary of "
                    f"{tokenizer.vocab_size} entries.",
                    pointer="/prompt",
                )
    return ids or [tokenizer.end_id]


def chat_prompt(request: ChatCompletionRequest, model: LoadedModel) -> list[int]:
    """Token ids of a conversation that is to be continued.

    A base model has never seen a turn: it gets the plain texts, line by line, to go on from.
    """
    messages: list[Message] = [
        {"role": message.role, "content": str(message.content)}  # type: ignore[typeddict-item]
        for message in request.messages  # an unknown role is refused below
    ]
    if model.stage == "finetune":
        return encode_prompt(model.tokenizer, messages)
    check_messages(messages)
    return model.tokenizer.encode("\n".join(message["content"] for message in messages))


def resolve_sampling(
    request: SamplingRequest,
    model: LoadedModel,
    *,
    num_prompt_tokens: int,
    max_tokens: int | None,
    end_ids: frozenset[int],
) -> SamplingParams:
    """Fill in defaults; `max_tokens` None means what the context holds.

    Raises InvalidInputError with a pointer to the field at fault.
    """
    room = model.context_length - num_prompt_tokens
    if room < 1:
        raise InvalidInputError(
            f"This model's maximum context length is {model.context_length} tokens. However, your "
            f"prompt has {num_prompt_tokens} tokens, which leaves no room for an answer.",
            hint="Shorten the prompt.",
            code="context_length_exceeded",
            pointer="/messages" if isinstance(request, ChatCompletionRequest) else "/prompt",
        )
    min_tokens = request.min_tokens or 0
    if max_tokens is not None and min_tokens > max_tokens:
        raise InvalidInputError(
            f"min_tokens {min_tokens} is above max_tokens {max_tokens}.",
            code="invalid_value",
            pointer="/min_tokens",
        )
    stop = [request.stop] if isinstance(request.stop, str) else request.stop
    return SamplingParams(
        max_tokens=min(room, max_tokens or room),
        seed=secrets.randbelow(MAX_SEED) if request.seed is None else request.seed,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_k=max(0, request.top_k or 0),
        top_p=1.0 if request.top_p is None else request.top_p,
        min_p=request.min_p or 0.0,
        min_tokens=min_tokens,
        end_ids=frozenset() if request.ignore_eos else end_ids,
        stop=tuple(stop or ()),
    )
