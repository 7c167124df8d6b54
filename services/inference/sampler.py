"""Logits to next tokens, a whole batch at once. Knows no sequence's text and no model.

A row's result depends on that row alone: its random number is a function of (seed, position), and
it is looked up in the row's own distribution in vocabulary order, so what the neighbours ask for
changes nothing (beyond the last bits that a matrix product of another batch size may differ in).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from services.inference.distribution import (
    draw,
    filter_tokens,
    find_logprobs,
    list_logprobs,
    penalize,
    uniform,
)
from services.inference.runner import Drawn
from services.inference.sequence import SamplingParams, TokenLogprobs


class SampleRow(NamedTuple):
    """What the sampler has to know of one row of logits."""

    params: SamplingParams
    tokens: Sequence[int]
    """Prompt and answer so far."""
    num_prompt: int

    @property
    def num_generated(self) -> int:
        """Tokens generated so far: the position in the answer that is drawn now."""
        return len(self.tokens) - self.num_prompt


def sample(logits: Tensor, rows: Sequence[SampleRow]) -> list[Drawn]:
    """Choose one token for each row of logits (B, V) float32, which is overwritten.

    The order is that of SamplingParams. Temperature 0 takes the likeliest token (the lowest id of
    equals). Logprobs are of the logits as they came.
    """
    wanted = [index for index, row in enumerate(rows) if row.params.logprobs is not None]
    raw = logits[wanted] if wanted else None  # a copy
    for index, row in enumerate(rows):
        if row.params.shapes_logits:
            _apply_wishes(logits[index], row)
    chosen = _likeliest(logits)
    warm = [index for index, row in enumerate(rows) if row.params.temperature > 0]
    if warm:
        chosen[warm] = _draw(logits[warm], [rows[index] for index in warm])
    tokens: list[int] = chosen.tolist()
    drawn = [Drawn(token) for token in tokens]
    if raw is not None:
        top = [rows[index].params.logprobs or 0 for index in wanted]
        found = find_logprobs(raw, chosen[wanted], max(top))
        listed = list_logprobs([tokens[index] for index in wanted], top, found)
        for index, logprobs in zip(wanted, listed, strict=True):
            drawn[index] = Drawn(tokens[index], TokenLogprobs(*logprobs))
    return drawn


def prompt_logprobs(logits: Tensor, following: Sequence[int], top: int) -> list[TokenLogprobs]:
    """How likely each of `following` was after a position, given the logits (N, V) there."""
    found = find_logprobs(logits, torch.tensor(following, device=logits.device), top)
    return [TokenLogprobs(*one) for one in list_logprobs(following, [top] * len(following), found)]


def _likeliest(logits: Tensor) -> Tensor:
    """The index of each row's largest entry, the lowest of equals."""
    if logits.is_cpu:  # NumPy's kernel is vectorized and needs a tenth of the time of torch's
        return torch.from_numpy(logits.numpy().argmax(-1))
    return logits.argmax(-1)


def _apply_wishes(logits: Tensor, row: SampleRow) -> None:
    """Change one row's logits (V,) in place as its bias, penalties and min_tokens ask for."""
    params = row.params
    if params.logit_bias:
        ids, values = zip(*params.logit_bias, strict=True)
        bias = torch.tensor(values, device=logits.device, dtype=logits.dtype)
        logits.index_add_(0, torch.tensor(ids, device=logits.device), bias)
    if params.penalizes:
        _penalize(logits, row)
    if row.num_generated < params.min_tokens and params.end_ids:
        logits[sorted(params.end_ids)] = -torch.inf


def _penalize(logits: Tensor, row: SampleRow) -> None:
    params, vocab_size = row.params, logits.shape[-1]
    ids = torch.tensor(row.tokens, device=logits.device)
    answer = ids[row.num_prompt :]
    counts = torch.bincount(answer, minlength=vocab_size)
    seen = torch.zeros(vocab_size, dtype=torch.bool, device=logits.device).index_fill_(0, ids, True)
    logits.copy_(
        penalize(
            logits,
            counts,
            seen,
            repetition=params.repetition_penalty,
            frequency=params.frequency_penalty,
            presence=params.presence_penalty,
        )
    )


def _draw(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """Draw from softmax(logits / temperature), filtered."""
    device = logits.device

    def column(values: list[float] | list[int]) -> Tensor:
        return torch.tensor(values, device=device)

    temperatures = column([row.params.temperature for row in rows])
    # Relative to the likeliest token first: a tiny temperature must not overflow.
    logits = (logits - logits.amax(-1, keepdim=True)) / temperatures[:, None]
    filtered = [index for index, row in enumerate(rows) if row.params.filters]
    if filtered:
        params = [rows[index].params for index in filtered]
        logits[filtered] = filter_tokens(
            logits[filtered],
            top_k=column([p.top_k or logits.shape[-1] for p in params]),
            top_p=column([p.top_p for p in params]),
            min_p=column([p.min_p for p in params]),
        )
    seeds = column([row.params.seed for row in rows])
    positions = column([row.num_generated for row in rows])
    return draw(logits, uniform(seeds, positions))
