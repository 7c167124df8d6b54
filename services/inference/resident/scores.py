"""Logprobs that clients ask for, found on the device and read when they have arrived."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from services.inference.distribution import find_logprobs, list_logprobs
from services.inference.runner import scored_parts
from services.inference.scheduler import Row
from services.inference.sequence import TokenLogprobs
from services.inference.transfer import to_device


class Scores(NamedTuple):
    """Logprobs that were asked for, of some rows or of one row's prompt."""

    tokens: Sequence[int] | None
    """None for those that are drawn in this step."""
    rows: list[int]
    """Number of the row that each belongs to."""
    top: list[int]
    found: tuple[Tensor, Tensor, Tensor]


def score_drawn(rows: Sequence[Row], logits: Tensor, chosen: Tensor) -> list[Scores]:
    """Logprobs of the drawn tokens whose clients ask for them; `logits` of the rows that sample."""
    sampling = [(number, row) for number, row in enumerate(rows) if row.samples]
    wanted = [
        (place, number, row.sequence.sampling.logprobs)
        for place, (number, row) in enumerate(sampling)
        if row.sequence.sampling.logprobs is not None
    ]
    if not wanted:
        return []
    places, numbers, top = map(list, zip(*wanted, strict=True))
    index = to_device(places, logits.device)
    found = find_logprobs(logits[index], chosen[index], max(top))
    return [Scores(None, numbers, top, found)]


def score_prompts(rows: Sequence[Row], logits: Tensor) -> list[Scores]:
    """Logprobs of prompts, of those rows that score theirs."""
    scores = []
    for row, first, tokens, top in scored_parts(rows):
        count = len(tokens)
        following = to_device(tokens, logits.device)
        found = find_logprobs(logits[first : first + count], following, top)
        scores.append(Scores(tokens, [row] * count, [top] * count, found))
    return scores


def read_scores(
    scores: Sequence[Scores], found: Sequence[Tensor], drawn: Sequence[int | None]
) -> tuple[dict[int, TokenLogprobs], dict[int, list[TokenLogprobs]]]:
    """By number of the row: logprobs of the tokens that were `drawn`, and those of prompts.

    `found` holds the three tensors of each of `scores`, on the host.
    """
    logprobs: dict[int, TokenLogprobs] = {}
    prompts: dict[int, list[TokenLogprobs]] = {}
    for number, score in enumerate(scores):
        of_tokens, values, ids = found[3 * number : 3 * number + 3]
        known = score.tokens or [drawn[row] or 0 for row in score.rows]
        listed = list_logprobs(known, score.top, (of_tokens, values, ids))
        for row, one in zip(score.rows, listed, strict=True):
            if score.tokens is None:
                logprobs[row] = TokenLogprobs(*one)
            else:
                prompts.setdefault(row, []).append(TokenLogprobs(*one))
    return logprobs, prompts
