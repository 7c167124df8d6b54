"""The seam between the engine and whatever computes its steps. Knows no tensor and no thread."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

from services.inference.loaded_model import LoadedModel
from services.inference.scheduler import Row
from services.inference.sequence import TokenLogprobs


class Drawn(NamedTuple):
    """A chosen token."""

    token: int
    logprobs: TokenLogprobs | None = None
    """If the row asked for them."""


class Outcome(NamedTuple):
    """What a step found out for one row."""

    drawn: Drawn | None = None
    """None for a row that does not sample."""
    prompt_logprobs: Sequence[TokenLogprobs] = ()
    """Of the prompt's tokens that follow those of the row, if the row scores its prompt."""


class ScoredPart(NamedTuple):
    """Tokens of a prompt whose logprobs a step finds out."""

    row: int
    """Number of the row that finds them."""
    first: int
    """Which of the step's logits is that of the first of them."""
    tokens: list[int]
    top: int
    """Likeliest alternatives that are wanted with each."""


def last_logits(rows: Sequence[Row]) -> list[int]:
    """Which of a step's logits tokens are drawn of: the last of each row that samples."""
    ends = accumulate(row.num_logits for row in rows)
    return [end - 1 for row, end in zip(rows, ends, strict=True) if row.samples]


def scored_parts(rows: Sequence[Row]) -> list[ScoredPart]:
    """What of prompts a step scores, of rows that score theirs."""
    starts = accumulate((row.num_logits for row in rows), initial=0)
    return [
        ScoredPart(number, start, row.following, row.sequence.sampling.prompt_logprobs or 0)
        for number, (row, start) in enumerate(zip(rows, starts, strict=False))
        if row.scores_prompt and row.following
    ]


class Flight(Protocol):
    """Rows whose computation has begun."""

    def land(self) -> Sequence[Outcome]:
        """Wait for the rows and return what became of each, in their order.

        Raises RuntimeError when the computation failed on its way.
        """


class Runner(Protocol):
    """Computes steps."""

    stays_behind: bool
    """Whether a step may be launched before the tokens of the one before it are known. Rows then
    go on from a token that only the device has seen."""

    def is_usable(self) -> bool:
        """Whether the device still computes. Asked after a failure: some leave a GPU's process
        unable to compute anything ever after."""

    def launch(self, model: LoadedModel, rows: Sequence[Row]) -> Flight:
        """Begin to compute one model's rows. Raises RuntimeError when that is not possible."""
