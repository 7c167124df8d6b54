"""What a model says: fixed samples, how much they repeat themselves, what it knows by heart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from services.trainer.data import document_lengths, token_stream
from services.trainer.evaluate import complete
from shared.contracts.evaluation import Memorisation
from shared.model.transformer import Transformer
from shared.text.token_set import TokenSplit

RUN_TOKENS = 4
PROMPT_TOKENS, ANSWER_TOKENS = 32, 32
BATCH_DOCUMENTS = 16


def repeated_share(ids: Sequence[int]) -> float:
    """Share of the runs of RUN_TOKENS ids that came before; 0 for a text shorter than one."""
    runs = [tuple(ids[i : i + RUN_TOKENS]) for i in range(len(ids) - RUN_TOKENS + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def distinct_share(ids: Sequence[int]) -> float:
    """Share of different ones among the pairs of neighbours; 1 for less than two ids."""
    pairs = list(pairwise(ids))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


class Chance:
    """Draws the next token at a temperature, from a generator of its own."""

    def __init__(self, temperature: float, *, seed: int) -> None:
        self._temperature = temperature
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (B, V) -> ids (B,)."""
        shares = torch.softmax(logits.float().cpu() / self._temperature, dim=-1)
        return torch.multinomial(shares, 1, generator=self._generator)[:, 0]


def learned_by_heart(
    model: Transformer, split: TokenSplit, *, documents: int, end_id: int
) -> Memorisation | None:
    """Complete the beginnings of evenly spaced documents; None when none is long enough."""
    stream, lengths = token_stream(split), document_lengths(split).astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    wanted = PROMPT_TOKENS + ANSWER_TOKENS
    if model.config.context_length < wanted:
        return None
    long_enough = starts[lengths >= wanted]
    if not len(long_enough):
        return None
    places = np.linspace(0, len(long_enough) - 1, min(documents, len(long_enough)))
    texts = [stream[s : s + wanted].tolist() for s in long_enough[places.astype(int)]]
    right = [
        count
        for first in range(0, len(texts), BATCH_DOCUMENTS)
        for count in _right_tokens(model, texts[first : first + BATCH_DOCUMENTS], end_id)
    ]
    return Memorisation(
        split=split.split,
        beginnings=len(right),
        prompt_tokens=PROMPT_TOKENS,
        answer_tokens=ANSWER_TOKENS,
        exact_share=sum(count == ANSWER_TOKENS for count in right) / len(right),
        matching_tokens=sum(right) / len(right),
    )


def _right_tokens(model: Transformer, texts: list[list[int]], end_id: int) -> list[int]:
    """How many tokens of each answer are right before the first wrong one."""
    prompts = [text[:PROMPT_TOKENS] for text in texts]
    answers = complete(model, prompts, max_tokens=ANSWER_TOKENS, end_id=end_id)
    counts = []
    for text, answer in zip(texts, answers, strict=True):
        truth = text[PROMPT_TOKENS:]
        padded = [*answer, *[-1] * (len(truth) - len(answer))]
        wrong = [i for i, (a, b) in enumerate(zip(padded, truth, strict=True)) if a != b]
        counts.append(wrong[0] if wrong else len(truth))
    return counts
