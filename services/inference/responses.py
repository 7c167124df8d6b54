"""What clients get, in OpenAI's shapes. Written with `exclude_unset`: absent is not null."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

FinishName = Literal["stop", "length"]


class Answer(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Usage(Answer):
    """Token counts; a generated end token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionLogprobs(Answer):
    """Logprobs of a completion's tokens, one entry a token in each list."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """By the model's own distribution; null for the first token of an echoed prompt."""
    top_logprobs: list[dict[str, float] | None]
    """The likeliest alternatives, and the token itself."""
    text_offset: list[int]
    """Where the token begins in the text, in characters."""


class CompletionChoice(Answer):
    """The text of a completion, or a piece of it."""

    index: int = 0
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishName | None = None


class Completion(Answer):
    """A completion; in a stream, one of its pieces."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class AssistantMessage(Answer):
    """The assistant's turn."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class TokenAlternative(Answer):
    """A token and how likely it was by the model's own distribution."""

    token: str
    logprob: float
    bytes: list[int]
    """Its UTF-8 bytes, which may be a part of a character."""


class TokenLogprob(TokenAlternative):
    """A token of the answer and the likeliest ones in its place."""

    top_logprobs: list[TokenAlternative]


class ChatLogprobs(Answer):
    """Logprobs of a chat answer."""

    content: list[TokenLogprob]
    refusal: None = None


class ChatChoice(Answer):
    """A chat answer."""

    index: int = 0
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishName


class ChatCompletion(Answer):
    """A chat answer with its usage."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(Answer):
    """What a chunk adds to the assistant's turn."""

    role: Literal["assistant"] = "assistant"
    content: str = ""


class ChunkChoice(Answer):
    """A piece of a chat answer."""

    index: int = 0
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishName | None = None


class ChatCompletionChunk(Answer):
    """One event of a chat stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class ModelCard(Answer):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "ryan-gpt"
    version: int
    """The version that answers now."""
    pinned: bool
    """Whether it stays whatever is published later."""
    checkpoint_id: str
    sha256: str
    """Digest of the checkpoint's manifest."""
    stage: Literal["pretrain", "finetune"]
    """A base model completes text; a finetuned one answers."""
    max_model_len: int
    """Longest prompt plus answer, in tokens."""


class ModelList(Answer):
    """All served models, newest publication first."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class TokenizeAnswer(Answer):
    """Token ids of a text or a conversation."""

    count: int
    max_model_len: int
    """Longest prompt plus answer, in tokens."""
    tokens: list[int]
    token_strs: list[str] | None = None
    """Each token as text, if that was asked for."""


class DetokenizeAnswer(Answer):
    """The text of token ids."""

    prompt: str


class ErrorDetail(Answer):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    """The field at fault."""
    code: str | None
    """For programs."""


class ErrorBody(Answer):
    """The body of every 4xx and 5xx."""

    error: ErrorDetail


class Liveness(Answer):
    """The process computes."""

    status: Literal["ok"] = "ok"


class ServedModel(Answer):
    """A served version, and why a newer one is not served."""

    name: str
    version: int
    sha256: str
    stage: Literal["pretrain", "finetune"]


class FailedModel(Answer):
    """A published version that cannot be served."""

    name: str
    version: int
    reason: str
    at: str


class Readiness(Answer):
    """Ready to take requests; without a published model they are answered 503."""

    status: Literal["ok"] = "ok"
    device: str
    dtype: str
    weights: str
    attention: str
    models: list[ServedModel]
    failures: list[FailedModel]
