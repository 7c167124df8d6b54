"""Next tokens of slots, drawn and kept on the device. Knows no network and nothing of the host.

The same choice as `sampler.sample` makes, from the same functions; written so that no value goes to
the host or comes from it, and therefore fit for a CUDA graph. B rows, V tokens in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import torch
from torch import Tensor

from services.inference.distribution import draw, filter_tokens, penalize, uniform
from services.inference.resident.slot_table import SlotTable
from services.inference.sequence import SamplingParams


class Effort(IntEnum):
    """How much a batch asks of the sampler; each includes what comes before it."""

    LIKELIEST = 0
    """Every row takes its likeliest token."""
    DRAWN = 1
    """Some row draws, or has wishes that change logits."""
    FILTERED = 2
    """Some row has top_k, top_p or min_p, so the vocabulary is sorted."""


def effort_of(rows: Iterable[SamplingParams]) -> Effort:
    """What a batch of these rows needs."""
    effort = Effort.LIKELIEST
    for params in rows:
        if params.temperature > 0 and params.filters:
            return Effort.FILTERED
        if params.temperature > 0 or params.shapes_logits:
            effort = Effort.DRAWN
    return effort


def sample_slots(logits: Tensor, slots: Tensor, table: SlotTable, effort: Effort) -> Tensor:
    """Draw a token (B,) for each of `slots` (B,) from logits (B, V) float32, which stay as they
    are, and make it the slot's last token."""
    if effort is Effort.LIKELIEST:
        chosen = logits.argmax(-1)
    else:
        chosen = _draw(_shape(logits, slots, table), slots, table, effort)
        _count(chosen, slots, table)
    table.token[slots] = chosen
    return chosen


def _count(chosen: Tensor, slots: Tensor, table: SlotTable) -> None:
    """Note what was drawn, for rows whose next draw depends on it: they never go without."""
    table.num_generated[slots] = table.num_generated[slots] + 1
    # Not in place and not with accumulate=True: rows of scratch are there several times.
    entries = slots * table.vocab_size + chosen
    answered, seen = table.answered.view(-1), table.seen.view(-1)
    answered[entries] = answered[entries] + 1
    seen.index_fill_(0, entries, True)


def _shape(logits: Tensor, slots: Tensor, table: SlotTable) -> Tensor:
    """Logits with bias, penalties and the ban of tokens that would end the text too early."""
    shaped = penalize(
        logits + table.bias[slots],
        table.answered[slots],
        table.seen[slots],
        repetition=table.number("repetition_penalty", slots),
        frequency=table.number("frequency_penalty", slots),
        presence=table.number("presence_penalty", slots),
    )
    is_early = table.num_generated[slots] < table.count("min_tokens", slots)
    return shaped.masked_fill(table.ends[slots] & is_early[:, None], -torch.inf)


def _draw(logits: Tensor, slots: Tensor, table: SlotTable, effort: Effort) -> Tensor:
    temperature = table.number("temperature", slots)
    is_greedy = temperature == 0
    # Relative to the likeliest token first: a tiny temperature must not overflow.
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperature.masked_fill(is_greedy, 1.0)
    if effort is Effort.FILTERED:
        scaled = filter_tokens(
            scaled,
            top_k=table.count("top_k", slots),
            top_p=table.number("top_p", slots)[:, 0],
            min_p=table.number("min_p", slots)[:, 0],
        )
    numbers = uniform(table.count("seed", slots), table.num_generated[slots])
    return torch.where(is_greedy[:, 0], logits.argmax(-1), draw(scaled, numbers))
