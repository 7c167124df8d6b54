"""One request inside the engine: its tokens, its wishes, how far it is. Knows no torch, no HTTP."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from services.inference.detokenizer import Detokenizer

if TYPE_CHECKING:
    from services.inference.loaded_model import LoadedModel

_numbers = itertools.count()


class FinishReason(StrEnum):
    """Why a sequence ended. Clients only ever see `stop` and `length`."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen and when to stop; every limit already resolved."""

    max_tokens: int
    """Tokens to generate at most; at least 1."""
    seed: int
    """With the position, it alone decides the random draw of a token."""
    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_k: int = 0
    """Only the k likeliest tokens; 0 means all."""
    top_p: float = 1.0
    """Only the likeliest tokens that together reach this probability."""
    min_p: float = 0.0
    """Only tokens at least this likely, relative to the likeliest one."""
    min_tokens: int = 0
    """Until so many are generated, no token of `end_ids` can be drawn."""
    end_ids: frozenset[int] = frozenset()
    """Tokens that end the text."""
    stop: tuple[str, ...] = ()
    """Strings that end the text; they are cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one step added to a sequence, as its reader gets it."""

    text: str
    num_tokens: int
    finish_reason: FinishReason | None = None
    error: str | None = None
    """What went wrong, with `FinishReason.ERROR`."""


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """A prompt and what has been generated after it, bound to one loaded model for life.

    Changed by the engine only. `num_cached` tokens have their keys and values in `slot`.
    """

    model: LoadedModel
    prompt: tuple[int, ...]
    sampling: SamplingParams
    detokenizer: Detokenizer
    capacity: int
    """Tokens that a slot of this model's cache can hold: the context."""
    tokens: list[int] = field(init=False)
    num_cached: int = 0
    slot: int | None = None
    finish_reason: FinishReason | None = None
    number: int = field(default_factory=lambda: next(_numbers))
    created_at: float = field(default_factory=time.monotonic)
    """Seconds of the monotonic clock, as are the next two."""
    started_at: float | None = None
    """When it got a slot."""
    last_token_at: float | None = None

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)

    @property
    def num_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - len(self.prompt)

    @property
    def finished(self) -> bool:
        """Whether nothing will be added any more."""
        return self.finish_reason is not None

    def accept(self, token: int) -> Delta:
        """Append a generated token and decide whether it ends the sequence."""
        self.tokens.append(token)
        if token in self.sampling.end_ids:
            return self._finish(FinishReason.STOP, self.detokenizer.flush())
        text = self.detokenizer.push(token)
        if self.detokenizer.stopped:
            return self._finish(FinishReason.STOP, text)
        if self.num_generated >= self.sampling.max_tokens:
            rest = self.detokenizer.flush()
            reason = FinishReason.STOP if self.detokenizer.stopped else FinishReason.LENGTH
            return self._finish(reason, text + rest)
        return Delta(text=text, num_tokens=1)

    def fail(self, message: str) -> Delta:
        """End the sequence because computing it failed."""
        self.finish_reason = FinishReason.ERROR
        return Delta(text="", num_tokens=0, finish_reason=FinishReason.ERROR, error=message)

    def _finish(self, reason: FinishReason, text: str) -> Delta:
        self.finish_reason = reason
        return Delta(text=text, num_tokens=1, finish_reason=reason)
