"""The seam between the engine and whatever computes its steps. Knows no tensor and no thread."""

from __future__ import annotations

from collections.abc import Sequence
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
