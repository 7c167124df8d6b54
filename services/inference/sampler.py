"""Logits to next tokens, a whole batch at once. Knows no sequence's text and no model.

A row's result depends on that row alone: its random number is a function of (seed, position), and
it is looked up in the row's own distribution in vocabulary order, so what the neighbours ask for
changes nothing (beyond the last bits that a matrix product of another batch size may differ in).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.inference.sequence import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """What the sampler has to know of one row of logits."""

    params: SamplingParams
    num_generated: int
    """Tokens generated so far: the position in the answer that is drawn now."""


def sample(logits: Tensor, rows: Sequence[SampleRow]) -> list[int]:
    """Choose one token for each row of logits (B, V), which is overwritten.

    In order: end tokens are banned while min_tokens asks for more, then temperature, then min_p,
    top_k and top_p together. Temperature 0 takes the likeliest token (the lowest id of equals).
    """
    _ban_end_tokens(logits, rows)
    chosen = logits.argmax(-1)
    drawn = [index for index, row in enumerate(rows) if row.params.temperature > 0]
    if drawn:
        picked = logits[drawn].float()
        chosen[drawn] = _draw(picked, [rows[index] for index in drawn])
    tokens: list[int] = chosen.tolist()
    return tokens


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that is a function of seed and position, the same on every machine."""
    text = f"{seed}:{position}".encode()
    digest = hashlib.blake2b(text, digest_size=8, person=b"ryangpt-sample").digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def _ban_end_tokens(logits: Tensor, rows: Sequence[SampleRow]) -> None:
    for index, row in enumerate(rows):
        if row.num_generated < row.params.min_tokens and row.params.end_ids:
            logits[index, sorted(row.params.end_ids)] = -torch.inf


def _draw(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """Draw from softmax(logits / temperature), filtered: inverse of the cumulated distribution."""
    device = logits.device
    temperatures = torch.tensor([row.params.temperature for row in rows], device=device)
    # Relative to the likeliest token first: a tiny temperature must not overflow.
    logits = (logits - logits.amax(-1, keepdim=True)) / temperatures[:, None]
    filtered = [index for index, row in enumerate(rows) if _filters(row.params)]
    if filtered:
        params = [rows[index].params for index in filtered]
        logits[filtered] = _filter(logits[filtered], params)
    cumulated = logits.softmax(-1, dtype=torch.float64).cumsum(-1)
    numbers = [uniform(row.params.seed, row.num_generated) for row in rows]
    draws = torch.tensor(numbers, dtype=torch.float64, device=device)[:, None]
    # right=True never lands on a token of probability 0: its sum equals its left neighbour's.
    chosen = torch.searchsorted(cumulated, draws * cumulated[:, -1:], right=True)
    return chosen[:, 0].clamp_(max=logits.shape[-1] - 1)


def _filters(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1 or params.min_p > 0


def _filter(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Set to -inf what min_p, top_k or top_p leaves out; the likeliest token always stays.

    top_p is nucleus sampling (Holtzman et al., 2020, arXiv:1904.09751): the fewest tokens whose
    probabilities reach p. min_p: Nguyen et al., 2024, arXiv:2407.01082.
    """
    device, vocab_size = logits.device, logits.shape[-1]
    top_k = torch.tensor([p.top_k or vocab_size for p in params], device=device)[:, None]
    top_p = torch.tensor([p.top_p for p in params], device=device)[:, None]
    min_p = torch.tensor([p.min_p for p in params], device=device)[:, None]
    ordered, order = logits.sort(stable=True, dim=-1, descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    ranks = torch.arange(vocab_size, device=device)[None]
    dropped = (ranks >= top_k) | (probabilities < min_p * probabilities[:, :1])
    dropped |= (before >= top_p) & (top_p < 1)
    dropped[:, 0] = False
    return logits.masked_fill(torch.zeros_like(dropped).scatter_(1, order, dropped), -torch.inf)
