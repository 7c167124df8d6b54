"""What clients send, as OpenAI's clients send it: nulls mean defaults, unknown fields are ignored.

A field that is known, would change the answer and is not supported is refused instead of ignored.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 500
MAX_SEED = 2**63


def _check_stop(value: Any) -> Any:
    strings = [value] if isinstance(value, str) else value
    if value is None:
        return None
    if not isinstance(strings, list) or not all(isinstance(one, str) for one in strings):
        raise ValueError("must be a string or an array of strings")
    if len(strings) > MAX_STOP_STRINGS:
        raise ValueError(f"at most {MAX_STOP_STRINGS} stop strings are allowed")
    if not all(0 < len(one) <= MAX_STOP_CHARS for one in strings):
        raise ValueError(f"a stop string has 1 to {MAX_STOP_CHARS} characters")
    return strings


def _check_prompt(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(type(one) is int for one in value):
        return value
    if isinstance(value, list) and len(value) > 1:
        raise ValueError("one prompt a request; send several requests for several prompts")
    raise ValueError("must be a string or an array of token ids")


def _check_content(value: Any) -> Any:
    if isinstance(value, list):
        texts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
            for part in value
        ]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError('parts must look like {"type": "text", "text": "..."}')
        return "".join(text for text in texts if text is not None)
    if not isinstance(value, str):
        raise ValueError("must be a string or an array of text parts")
    return value


def _refuse_unless(*neutral: Any) -> AfterValidator:
    def check(value: Any) -> Any:
        if not any(value == one and type(value) is type(one) for one in (*neutral, None)):
            raise ValueError("is not supported")
        return value

    return AfterValidator(check)


class Request(BaseModel):
    """Base of all bodies. Numbers are not read out of strings."""

    model_config = ConfigDict(extra="ignore", strict=True, use_attribute_docstrings=True)


class StreamOptions(Request):
    """Options of a stream."""

    include_usage: bool | None = None
    """Send one more chunk, without choices, with the usage."""


class SamplingRequest(Request):
    """What completions and chat have in common."""

    model: str | None = Field(None, max_length=200)
    """Name of a published model; by default the newest (for chat: the newest finetuned one)."""
    stream: bool | None = None
    """Send the answer as server-sent events while it grows."""
    stream_options: StreamOptions | None = None
    """Only with `stream`."""
    max_tokens: int | None = Field(None, ge=1)
    """Tokens to generate at most. Completions: 16 by default; chat: what the context holds."""
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    """0 is greedy; 1 by default."""
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    """Draw from the likeliest tokens that together have this probability; 1 by default."""
    top_k: int | None = Field(None, ge=-1, le=2**31)
    """Draw from the k likeliest tokens; 0 or -1, the default, from all. Not OpenAI's."""
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    """Draw from tokens at least this likely relative to the likeliest; 0 by default. Not
    OpenAI's."""
    min_tokens: int | None = Field(None, ge=0)
    """Do not let the model end its text before so many tokens; 0 by default. Stop strings still
    end it. Not OpenAI's."""
    ignore_eos: bool | None = None
    """Let the model go on after its end token. Not OpenAI's."""
    seed: int | None = Field(None, ge=-MAX_SEED, lt=MAX_SEED)
    """The same request with the same seed and model version gets the same answer, whatever else
    is being answered meanwhile."""
    stop: Annotated[str | list[str] | None, BeforeValidator(_check_stop)] = None
    """Strings that end the text and are not part of it."""
    n: Annotated[int | None, _refuse_unless(1)] = None
    """Only 1 answer a request."""
    presence_penalty: Annotated[float | None, _refuse_unless(0.0)] = None
    """Not supported: only 0."""
    frequency_penalty: Annotated[float | None, _refuse_unless(0.0)] = None
    """Not supported: only 0."""
    logit_bias: Annotated[dict[str, float] | None, _refuse_unless({})] = None
    """Not supported: only empty."""


class CompletionRequest(SamplingRequest):
    """POST /v1/completions."""

    prompt: Annotated[
        str | list[int] | list[str] | list[list[int]] | None, BeforeValidator(_check_prompt)
    ] = None
    """Text, or token ids, or an array of one of these. None or "" begins a new document."""
    echo: Annotated[bool | None, _refuse_unless(False)] = None
    """Not supported: only false."""
    logprobs: Annotated[int | None, _refuse_unless()] = None
    """Not supported."""
    best_of: Annotated[int | None, _refuse_unless(1)] = None
    """Only 1."""
    suffix: Annotated[str | None, _refuse_unless("")] = None
    """Not supported."""


class ChatMessage(Request):
    """One turn."""

    role: str = Field(max_length=50)
    """`user` or `assistant`, in turns, the user first and last."""
    content: Annotated[str | list[dict[str, Any]], BeforeValidator(_check_content)]
    """Text, or an array of `{"type": "text", "text": ...}`."""


class ChatCompletionRequest(SamplingRequest):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=4096)
    """The conversation; its last turn is the user's."""
    max_completion_tokens: int | None = Field(None, ge=1)
    """The newer name of max_tokens; wins if both are given."""
    logprobs: Annotated[bool | None, _refuse_unless(False)] = None
    """Not supported."""
    tools: Annotated[list[dict[str, Any]] | None, _refuse_unless([])] = None
    """Not supported."""
