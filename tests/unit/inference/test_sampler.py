"""What is drawn: filters against a slow twin, frequencies, independence of neighbours."""

from __future__ import annotations

import math
from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from services.inference.sampler import SampleRow, sample, uniform
from services.inference.sequence import SamplingParams


def row(position: int = 0, **params: object) -> SampleRow:
    values = {"max_tokens": 100, "seed": 1, **params}
    return SampleRow(params=SamplingParams(**values), num_generated=position)  # type: ignore[arg-type]


def draws(logits: list[float], number: int, **params: object) -> Counter[int]:
    rows = [row(position, **params) for position in range(number)]
    return Counter(sample(torch.tensor([logits] * number), rows))


def slow_twin(logits: list[float], params: SamplingParams, draw: float) -> int:
    """One row in plain Python, as the definitions read."""
    if params.temperature == 0:
        return max(range(len(logits)), key=lambda index: (logits[index], -index))
    weights = [math.exp((value - max(logits)) / params.temperature) for value in logits]
    total = sum(weights)
    probabilities = [weight / total for weight in weights]
    order = sorted(range(len(logits)), key=lambda index: (-probabilities[index], index))
    kept, reached = [], 0.0
    for rank, index in enumerate(order):
        small = probabilities[index] < params.min_p * probabilities[order[0]]
        if rank and ((params.top_k and rank >= params.top_k) or reached >= params.top_p or small):
            break
        kept.append(index)
        reached += probabilities[index]
    target = draw * sum(probabilities[index] for index in kept)
    reached = 0.0
    for index in sorted(kept):
        reached += probabilities[index]
        if reached > target:
            return index
    return max(kept)


@given(
    logits=st.permutations([-3.0, -1.2, -0.5, 0.0, 0.4, 0.9, 1.7, 2.6]),
    temperature=st.sampled_from([0.0, 0.01, 0.5, 1.0, 1.9]),
    top_k=st.sampled_from([0, 1, 3, 8, 50]),
    top_p=st.sampled_from([1.0, 0.93, 0.5, 0.05]),
    min_p=st.sampled_from([0.0, 0.11, 0.6, 1.0]),
    seed=st.integers(0, 50),
)
def test_equals_the_slow_twin(
    logits: list[float],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int,
) -> None:
    one = row(3, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    found = sample(torch.tensor([logits]), [one])
    assert found == [slow_twin(logits, one.params, uniform(seed, 3))]


def test_temperature_zero_takes_the_first_of_the_likeliest() -> None:
    assert sample(torch.tensor([[0.0, 2.0, 2.0]]), [row(temperature=0.0)]) == [1]


def test_frequencies_follow_the_softmax() -> None:
    counts = draws([0.0, 1.0, 2.0], 4000, temperature=1.0)
    weights = [math.exp(value) for value in (0.0, 1.0, 2.0)]
    for token, weight in enumerate(weights):
        expected = weight / sum(weights)
        deviation = math.sqrt(expected * (1 - expected) / 4000)
        assert abs(counts[token] / 4000 - expected) < 4 * deviation


def test_a_tiny_temperature_is_greedy_and_finite() -> None:
    assert draws([100.0, 500.0, -1000.0], 50, temperature=1e-6) == Counter({1: 50})


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    assert set(draws([-math.inf, 0.0, -math.inf, 0.0], 200, temperature=1.0)) == {1, 3}


def test_min_tokens_bans_the_end_tokens_until_then() -> None:
    wishes = {"temperature": 0.0, "min_tokens": 2, "end_ids": frozenset({1, 2})}
    tokens = [
        sample(torch.tensor([[0.0, 5.0, 4.0, 3.0]]), [row(position, **wishes)])[0]
        for position in range(4)
    ]
    assert tokens == [3, 3, 1, 1]


def test_a_seeded_row_does_not_depend_on_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 300, generator=generator)
    mine = row(7, seed=42, temperature=0.9)
    alone = sample(logits[:1].clone(), [mine])[0]
    neighbours = [
        row(1, temperature=0.0),
        row(2, temperature=1.5, top_k=5),
        row(3, temperature=0.7, top_p=0.5, min_p=0.1),
        row(9, temperature=1.0, min_tokens=50, end_ids=frozenset({0, 1, 2})),
    ]
    among = sample(logits.clone(), [mine, *neighbours])[0]
    last = sample(logits[[1, 2, 3, 4, 0]].clone(), [*neighbours, mine])[-1]
    assert alone == among == last


def test_seed_and_position_decide_alone() -> None:
    assert uniform(3, 4) == uniform(3, 4)
    assert uniform(3, 4) != uniform(4, 3)
    assert uniform(1, 23) != uniform(12, 3)
    assert all(0 <= uniform(seed, 0) < 1 for seed in (-(2**63), 0, 2**63 - 1))


def test_the_random_numbers_are_the_same_on_every_machine_and_release() -> None:
    assert (uniform(0, 0), uniform(1337, 5)) == (0.7514985943840568, 0.5039842650182905)


def test_no_rows_give_no_tokens() -> None:
    assert sample(torch.empty(0, 300), []) == []
