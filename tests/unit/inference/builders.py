"""Sequences without a model, for tests of what knows none."""

from __future__ import annotations

from typing import Any, cast

from services.inference.detokenizer import Detokenizer
from services.inference.loaded_model import LoadedModel
from services.inference.sequence import SamplingParams, Sequence

BYTES = tuple(bytes([value]) for value in range(256))


def make_sequence(
    num_prompt: int = 3, *, capacity: int = 64, max_tokens: int = 4, **sampling: Any
) -> Sequence:
    """A sequence over a vocabulary of single bytes."""
    params = SamplingParams(max_tokens=max_tokens, seed=0, **sampling)
    return Sequence(
        model=cast(LoadedModel, None),
        prompt=tuple(range(num_prompt)),
        sampling=params,
        detokenizer=Detokenizer(BYTES, params.stop),
        capacity=capacity,
    )
