"""What an evaluation found: quality by source with its uncertainty, and what the model says."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.contracts.base import Contract


class SourceScore(Contract):
    """Held-out quality on one source. Intervals are 95 % bootstrap ones over its documents."""

    source: str
    """Name of the token set."""
    documents: int = Field(ge=0)
    tokens: int = Field(ge=0)
    """Predicted tokens."""
    text_bytes: int = Field(ge=0)
    """UTF-8 bytes of the text that bits_per_byte counts; of dialogues the assistant's."""
    bits_per_byte: float
    bits_per_byte_low: float
    bits_per_byte_high: float
    loss: float
    """Nats a token, over all tokens. Like perplexity, comparable for one tokenizer only."""
    loss_low: float
    loss_high: float
    perplexity: float
    assistant_loss: float | None = None
    """Dialogues: nats a token of the assistant's."""


class EvaluationSample(Contract):
    """A prompt completed, always from the same seed."""

    prompt: str
    temperature: float
    """0: the likeliest tokens."""
    text: str
    repeated_share: float = Field(ge=0, le=1)
    """Share of its runs of four tokens that came before in the same text."""
    distinct_share: float = Field(ge=0, le=1)
    """Share of different ones among its pairs of neighbouring tokens."""


class Memorisation(Contract):
    """Whether documents come out as they went in: beginnings completed greedily."""

    split: Literal["train", "validation"]
    """The validation split is the control: what is right there is not memory."""
    beginnings: int = Field(ge=0)
    prompt_tokens: int
    answer_tokens: int
    exact_share: float = Field(ge=0, le=1)
    """Share of beginnings whose next answer_tokens all came out right."""
    matching_tokens: float = Field(ge=0)
    """Mean number of right tokens before the first wrong one."""


class Evaluation(Contract):
    """All of it."""

    sources: tuple[SourceScore, ...]
    samples: tuple[EvaluationSample, ...] = ()
    memorisation: tuple[Memorisation, ...] = ()
