"""Sequences without a model, for tests of what knows none."""

from __future__ import annotations

from typing import Any, cast

from services.inference.detokenizer import Detokenizer
from services.inference.loaded_model import LoadedModel
from services.inference.sequence import Binding, SamplingParams, Sequence

BYTES = tuple(bytes([value]) for value in range(256))


def unbound() -> Binding:
    """A request that nobody answers."""
    return Binding(cast(LoadedModel, None))


def make_choices(count: int, num_prompt: int = 3, **wishes: Any) -> list[Sequence]:
    """The choices of one request, all to the same prompt."""
    binding = unbound()
    return [make_sequence(num_prompt, binding=binding, **wishes) for _ in range(count)]


def make_sequence(
    num_prompt: int = 3,
    *,
    capacity: int = 64,
    max_tokens: int = 4,
    binding: Binding | None = None,
    **sampling: Any,
) -> Sequence:
    """A sequence over a vocabulary of single bytes."""
    params = SamplingParams(max_tokens=max_tokens, seed=0, **sampling)
    return Sequence(
        binding=binding or unbound(),
        prompt=tuple(range(num_prompt)),
        sampling=params,
        detokenizer=Detokenizer(BYTES, params.stop),
        capacity=capacity,
    )
