"""One request inside the engine: its tokens, its wishes, how far it is. Knows no torch, no HTTP."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from services.inference.detokenizer import Detokenizer

if TYPE_CHECKING:
    from services.inference.loaded_model import LoadedModel

SEED_STRIDE = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio: seeds of choices lie far apart."""

_numbers = itertools.count()


class FinishReason(StrEnum):
    """Why a sequence ended. Clients only ever see `stop` and `length`."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


class FailureCode(StrEnum):
    """What ended a sequence that has `FinishReason.ERROR`."""

    COMPUTATION = "generation_failed"
    TIMEOUT = "timeout"
    """Its deadline passed."""
    QUEUE_TIMEOUT = "queue_timeout"
    """It got no slot in time; nothing was computed."""
    RETIRED = "model_retired"
    """Its version of the model was replaced long ago."""
    SHUTDOWN = "shutting_down"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen and when to stop; every limit already resolved.

    Order: logit_bias, penalties, the ban on end tokens, temperature, then min_p, top_k and top_p.
    """

    max_tokens: int
    """Tokens to generate at most; 0 only looks at the prompt."""
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
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in prompt or answer."""
    frequency_penalty: float = 0.0
    """Subtracted for each time the token is in the answer already."""
    presence_penalty: float = 0.0
    """Subtracted once for a token that is in the answer already."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Added to the logits of these tokens; every id is in the vocabulary."""
    min_tokens: int = 0
    """Until so many are generated, no token of `end_ids` can be drawn."""
    end_ids: frozenset[int] = frozenset()
    """Tokens that end the text: the model's own (unless ignored) and the client's."""
    stop: tuple[str, ...] = ()
    """Strings that end the text; they are cut off."""
    logprobs: int | None = None
    """Likeliest alternatives to report with each token's logprob; None reports nothing."""
    prompt_logprobs: int | None = None
    """The same for the tokens of the prompt."""

    @property
    def shapes_logits(self) -> bool:
        """Whether anything is asked for that changes logits before the temperature does."""
        return bool(self.logit_bias) or self.min_tokens > 0 or self.penalizes

    @property
    def filters(self) -> bool:
        """Whether unlikely tokens are left out."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    def for_choice(self, number: int) -> SamplingParams:
        """The same wishes for another answer to the same prompt; number 0 is this one."""
        if number == 0:
            return self
        wrapped = (self.seed + number * SEED_STRIDE + 2**63) % 2**64 - 2**63
        return replace(self, seed=wrapped)

    @property
    def penalizes(self) -> bool:
        """Whether a token's chance depends on the text so far."""
        return (
            self.repetition_penalty != 1.0
            or self.frequency_penalty != 0.0
            or self.presence_penalty != 0.0
        )


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How likely a token was by the model's own distribution, before any wish is applied."""

    token: int
    logprob: float
    """Natural logarithm."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens with their logprobs, likeliest first; the token may be among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one step added to a sequence, as its reader gets it."""

    text: str = ""
    """May lag behind the tokens: half a character or half a stop string is held back."""
    tokens: tuple[int, ...] = ()
    """Generated tokens, one that ended the text included."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One a token, if asked for."""
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    """One a prompt token, None for the first; all of them with the first delta, if asked for."""
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    """With `FinishReason.STOP`, the token or string that ended the text."""
    error: str | None = None
    """What went wrong, with `FinishReason.ERROR`."""
    error_code: FailureCode | None = None
    """The same for programs."""

    @property
    def num_tokens(self) -> int:
        """Generated tokens."""
        return len(self.tokens)

    def __add__(self, later: Delta) -> Delta:
        """This and what came after it, as one."""
        early = self.prompt_logprobs
        return Delta(
            text=self.text + later.text,
            tokens=self.tokens + later.tokens,
            logprobs=self.logprobs + later.logprobs,
            prompt_logprobs=later.prompt_logprobs if early is None else early,
            finish_reason=later.finish_reason,
            stop_reason=later.stop_reason,
            error=later.error,
            error_code=later.error_code,
        )


@dataclass(slots=True, eq=False)
class Binding:
    """Which version answers a request, the same for all of its choices.

    A newer version may take over until the first choice has a slot, and never after.
    """

    model: LoadedModel
    is_fixed: bool = False


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """A prompt and what has been generated after it: one choice of a request.

    Changed by the engine only. `num_cached` tokens have their keys and values in `slot`.
    """

    binding: Binding
    """Shared with the other choices of the request."""
    prompt: tuple[int, ...]
    sampling: SamplingParams
    detokenizer: Detokenizer
    capacity: int
    """Tokens that a slot of this model's cache can hold: the context."""
    deadline: float | None = None
    """When it fails with `FailureCode.TIMEOUT`; seconds of the monotonic clock."""
    start_deadline: float | None = None
    """When it fails with `FailureCode.QUEUE_TIMEOUT` unless it has a slot by then."""
    tokens: list[int] = field(init=False)
    num_cached: int = 0
    num_pending: int = 0
    """Tokens that are being drawn and that only the device knows yet."""
    slot: int | None = None
    finish_reason: FinishReason | None = None
    number: int = field(default_factory=lambda: next(_numbers))
    created_at: float = field(default_factory=time.monotonic)
    """Seconds of the monotonic clock, as are the next two."""
    started_at: float | None = None
    """When it got a slot."""
    last_token_at: float | None = None
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=lambda: [None])
    """Those that are computed but not delivered yet."""

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)

    @property
    def model(self) -> LoadedModel:
        """The version that answers."""
        return self.binding.model

    @property
    def num_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - len(self.prompt)

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and answer, pending ones included."""
        return len(self.tokens) + self.num_pending

    @property
    def finished(self) -> bool:
        """Whether nothing will be added any more."""
        return self.finish_reason is not None

    def accept(self, token: int, logprobs: TokenLogprobs | None = None) -> Delta:
        """Append a generated token and decide whether it ends the sequence."""
        self.tokens.append(token)
        text, reason, stop_reason = self._read(token)
        self.finish_reason = reason
        return Delta(
            text=text,
            tokens=(token,),
            logprobs=() if logprobs is None else (logprobs,),
            prompt_logprobs=self._take_prompt_logprobs(),
            finish_reason=reason,
            stop_reason=stop_reason,
        )

    def end_at_prompt(self) -> Delta:
        """End a sequence that asked for no token, once its prompt is computed."""
        self.finish_reason = FinishReason.LENGTH
        return Delta(
            prompt_logprobs=self._take_prompt_logprobs(), finish_reason=FinishReason.LENGTH
        )

    def fail(self, message: str, code: FailureCode) -> Delta:
        """End the sequence because it cannot be computed to its end."""
        self.finish_reason = FinishReason.ERROR
        return Delta(finish_reason=FinishReason.ERROR, error=message, error_code=code)

    def _read(self, token: int) -> tuple[str, FinishReason | None, int | str | None]:
        """Text that a new token makes certain, and whether and why it ends the sequence."""
        words = self.detokenizer
        if token in self.sampling.end_ids:
            return words.flush(), FinishReason.STOP, token
        text = words.push(token)
        if not words.stopped and self.num_generated >= self.sampling.max_tokens:
            text += words.flush()
            if not words.stopped:
                return text, FinishReason.LENGTH, None
        return text, FinishReason.STOP if words.stopped else None, words.stopped_by

    def _take_prompt_logprobs(self) -> tuple[TokenLogprobs | None, ...] | None:
        if self.sampling.prompt_logprobs is None or not self.prompt_logprobs:
            return None
        taken = tuple(self.prompt_logprobs)
        self.prompt_logprobs.clear()
        return taken
