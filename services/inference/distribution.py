"""What sampling does to a batch of distributions, as functions of tensors and nothing else.

None of them looks at a value on the host, so they can be part of a CUDA graph. B rows, V tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

GOLDEN = -0x61C8864680B583EB
"""2^64 divided by the golden ratio, as a signed number."""
MIX_1, MIX_2 = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def uniform(seeds: Tensor, positions: Tensor) -> Tensor:
    """Numbers in [0, 1), float64, each a function of seed and position (both int64) alone.

    The finaliser of SplitMix64 (Steele, Lea & Flood, 2014) over the seed and then the position;
    integers wrap the same way on every device.
    """
    mixed = _mix(_mix(seeds + GOLDEN) + (positions + 1) * GOLDEN)
    return _shift_right(mixed, 11).double() * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * MIX_1
    x = (x ^ _shift_right(x, 27)) * MIX_2
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift as if unsigned."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def penalize(
    logits: Tensor,
    counts: Tensor,
    seen: Tensor,
    *,
    repetition: Tensor | float,
    frequency: Tensor | float,
    presence: Tensor | float,
) -> Tensor:
    """Logits (..., V) after penalties, which broadcast to them.

    `counts`: how often each token is in the answer; `seen`: whether it is in prompt or answer.
    Repetition as in CTRL (Keskar et al., 2019, arXiv:1909.05858) with the sign taken care of;
    frequency and presence as OpenAI defines them.
    """
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    logits = torch.where(seen, repeated, logits)
    return logits - counts * frequency - (counts > 0) * presence


def filter_tokens(logits: Tensor, *, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Logits (B, V) with -inf for what min_p, top_k or top_p (each (B,)) leaves out.

    The likeliest token always stays. top_p is nucleus sampling (Holtzman et al., 2020,
    arXiv:1904.09751): the fewest tokens whose probabilities reach p. min_p: Nguyen et al., 2024,
    arXiv:2407.01082.
    """
    top_k, top_p, min_p = top_k[:, None], top_p[:, None], min_p[:, None]
    ordered, order = logits.sort(stable=True, dim=-1, descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    ranks = torch.arange(logits.shape[-1], device=logits.device)[None]
    dropped = (ranks >= top_k) | (probabilities < min_p * probabilities[:, :1])
    dropped |= (before >= top_p) & (top_p < 1)
    dropped[:, 0].fill_(False)
    return logits.masked_fill(torch.zeros_like(dropped).scatter_(1, order, dropped), -torch.inf)


def draw(logits: Tensor, numbers: Tensor) -> Tensor:
    """Tokens (B,) of softmax(logits): where `numbers` (B,) fall in the cumulated distribution."""
    cumulated = logits.softmax(-1, dtype=torch.float64).cumsum(-1)
    # right=True never lands on a token of probability 0: its sum equals its left neighbour's.
    targets = numbers[:, None] * cumulated[:, -1:]
    chosen = torch.searchsorted(cumulated, targets, right=True)
    return chosen[:, 0].clamp_(max=logits.shape[-1] - 1)


def find_logprobs(logits: Tensor, tokens: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logprobs of tokens (B,) by logits (B, V), and the `most` likeliest ones with their ids."""
    logprobs = logits.log_softmax(-1)
    values, ids = logprobs.topk(min(most, logits.shape[-1]), dim=-1)
    return logprobs.gather(1, tokens[:, None])[:, 0], values, ids


def list_logprobs(
    tokens: Sequence[int], top: Sequence[int], found: tuple[Tensor, Tensor, Tensor]
) -> list[tuple[int, float, tuple[tuple[int, float], ...]]]:
    """What `find_logprobs` found: a row's token, its logprob and the `top` likeliest ones."""
    of_tokens, values, ids = (one.tolist() for one in found)
    return [
        (token, of_token, tuple(zip(ids[row][:number], values[row][:number], strict=True)))
        for row, (token, of_token, number) in enumerate(zip(tokens, of_tokens, top, strict=True))
    ]
