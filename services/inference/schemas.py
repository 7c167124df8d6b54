"""What clients send, as OpenAI's clients send it: nulls mean defaults, unknown fields are ignored.

A field that is known, would change the answer and is not supported is refused instead of ignored.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 500
MAX_SEED = 2**63
MAX_LOGPROBS = 20
MAX_BIASES = 1024
MAX_STOP_TOKENS = 128
MAX_CHOICES = 128
"""Answers a request can ask for: prompts times n."""
MAX_TOKENIZED_CHARS = 1 << 18
MAX_DETOKENIZED_TOKENS = 1 << 17
"""What can be asked for beside generating, several times the longest context, must not hold up
those who generate."""

TokenId = Annotated[str, Field(pattern=r"^\d{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Prompt = str | list[int] | list[str] | list[list[int]] | None


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
    if value is None or isinstance(value, str) or _is_ids(value):
        return value
    if not isinstance(value, list) or not (
        all(isinstance(one, str) for one in value) or all(map(_is_ids, value))
    ):
        raise ValueError(
            "must be a string, an array of token ids, or an array of several of either"
        )
    if len(value) > MAX_CHOICES:
        raise ValueError(f"at most {MAX_CHOICES} prompts are allowed")
    return value


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int for one in value)


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
    """Tokens to generate at most; by default what the context holds."""
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
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    """Answers to each prompt; 1 by default. With a seed, each is drawn with a seed of its own
    that follows from it."""
    presence_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    """Subtracted from the logits of tokens that the answer holds already; 0 by default."""
    frequency_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    """Subtracted once for each time the answer holds the token already; 0 by default."""
    repetition_penalty: float | None = Field(None, gt=0, le=100, allow_inf_nan=False)
    """Divides the positive and multiplies the negative logits of tokens that prompt or answer
    hold; 1 by default. Not OpenAI's."""
    logit_bias: dict[TokenId, Bias] | None = Field(None, max_length=MAX_BIASES)
    """Added to the logits of tokens, by id: -100 bans, 100 forces."""
    stop_token_ids: list[int] | None = Field(None, max_length=MAX_STOP_TOKENS)
    """More tokens that end the text and are not part of it. Not OpenAI's."""
    include_stop_str_in_output: bool | None = None
    """Show the stop string that ended the text. Not OpenAI's."""


class CompletionRequest(SamplingRequest):
    """POST /v1/completions."""

    prompt: Annotated[Prompt, BeforeValidator(_check_prompt)] = None
    """Text, or token ids, or an array of several of either; choices are numbered prompt by
    prompt. None or "" begins a new document."""
    max_tokens: int | None = Field(None, ge=0)
    """Tokens to generate at most; 16 by default, and 0 only with `echo`."""
    echo: bool | None = None
    """Begin the text (and its logprobs) with the prompt."""
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    """Return each token's logprob and those of so many likeliest alternatives, all by the model's
    own distribution: temperature, penalties and filters do not show in them."""
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)
    """Generate so many answers to each prompt and return the n likeliest a token. Not with
    `stream`."""
    suffix: Annotated[str | None, _refuse_unless("")] = None
    """Not supported."""


class ChatMessage(Request):
    """One turn."""

    role: str = Field(max_length=50)
    """`user` or `assistant`, in turns, the user first and last. A `system` or `developer` text is
    put before the next user's."""
    content: Annotated[str | list[dict[str, Any]], BeforeValidator(_check_content)]
    """Text, or an array of `{"type": "text", "text": ...}`."""


class ChatCompletionRequest(SamplingRequest):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=4096)
    """The conversation; its last turn is the user's."""
    max_completion_tokens: int | None = Field(None, ge=1)
    """The newer name of max_tokens; wins if both are given."""
    logprobs: bool | None = None
    """Return each token's logprob by the model's own distribution."""
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    """Return so many likeliest alternatives, too; needs `logprobs`."""
    tools: Annotated[list[dict[str, Any]] | None, _refuse_unless([])] = None
    """Not supported."""
    response_format: Annotated[dict[str, Any] | None, _refuse_unless({"type": "text"})] = None
    """Only text."""


class TokenizeRequest(Request):
    """POST /tokenize: a text, or a conversation."""

    model: str | None = Field(None, max_length=200)
    """Name of a published model; by default as for generating."""
    prompt: str | None = Field(None, max_length=MAX_TOKENIZED_CHARS)
    """Text; special tokens in it are only text."""
    messages: list[ChatMessage] | None = Field(None, min_length=1, max_length=4096)
    """A conversation, in place of `prompt`."""
    return_token_strs: bool | None = None
    """Return each token as text, too."""

    @model_validator(mode="after")
    def _one_of_both(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("either prompt or messages must be given")
        return self


class DetokenizeRequest(Request):
    """POST /detokenize."""

    model: str | None = Field(None, max_length=200)
    """Name of a published model; by default the newest."""
    tokens: list[int] = Field(max_length=MAX_DETOKENIZED_TOKENS)
    """Token ids."""
