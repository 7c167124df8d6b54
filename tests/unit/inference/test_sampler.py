"""What is drawn: filters against a slow twin, frequencies, independence of neighbours."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.inference.distribution import uniform
from services.inference.sampler import SampleRow, prompt_logprobs, sample
from services.inference.sequence import SamplingParams, TokenLogprobs


def row(position: int = 0, **params: object) -> SampleRow:
    return text_row([], [0] * position, **params)


def text_row(prompt: list[int], answer: list[int], **params: object) -> SampleRow:
    values = {"max_tokens": 100, "seed": 1, **params}
    return SampleRow(
        params=SamplingParams(**values),  # type: ignore[arg-type]
        tokens=prompt + answer,
        num_prompt=len(prompt),
    )


def tokens_of(logits: torch.Tensor, rows: list[SampleRow]) -> list[int]:
    return [drawn.token for drawn in sample(logits, rows)]


def number(seed: int, position: int) -> float:
    return float(uniform(torch.tensor([seed]), torch.tensor([position]))[0])


def draws(logits: list[float], count: int, **params: object) -> Counter[int]:
    rows = [row(position, **params) for position in range(count)]
    return Counter(tokens_of(torch.tensor([logits] * count), rows))


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
    found = tokens_of(torch.tensor([logits]), [one])
    assert found == [slow_twin(logits, one.params, number(seed, 3))]


def test_temperature_zero_takes_the_first_of_the_likeliest() -> None:
    assert tokens_of(torch.tensor([[0.0, 2.0, 2.0]]), [row(temperature=0.0)]) == [1]


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
        tokens_of(torch.tensor([[0.0, 5.0, 4.0, 3.0]]), [row(position, **wishes)])[0]
        for position in range(4)
    ]
    assert tokens == [3, 3, 1, 1]


def test_a_seeded_row_does_not_depend_on_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 300, generator=generator)
    mine = row(7, seed=42, temperature=0.9)
    alone = tokens_of(logits[:1].clone(), [mine])[0]
    neighbours = [
        row(1, temperature=0.0),
        row(2, temperature=1.5, top_k=5),
        row(3, temperature=0.7, top_p=0.5, min_p=0.1),
        row(9, temperature=1.0, min_tokens=50, end_ids=frozenset({0, 1, 2})),
    ]
    among = tokens_of(logits.clone(), [mine, *neighbours])[0]
    last = tokens_of(logits[[1, 2, 3, 4, 0]].clone(), [*neighbours, mine])[-1]
    assert alone == among == last


def split_mix(seed: int, position: int) -> float:
    """The slow twin of `uniform`, in Python's unbounded integers."""
    wrap = 2**64 - 1

    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & wrap
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & wrap
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    mixed = mix((mix((seed + golden) & wrap) + (position + 1) * golden) & wrap)
    return float(mixed >> 11) * 2.0**-53


@given(seed=st.integers(-(2**63), 2**63 - 1), position=st.integers(0, 2**20))
def test_the_random_number_is_a_function_of_seed_and_position(seed: int, position: int) -> None:
    assert number(seed, position) == split_mix(seed, position)


def test_the_random_numbers_are_spread_evenly_over_seeds_and_over_positions() -> None:
    many = torch.arange(4000)
    for numbers in (uniform(many, many * 0), uniform(many * 0, many)):
        counts = torch.histc(numbers, bins=8, min=0, max=1)
        assert ((counts - 500).abs() < 4 * math.sqrt(500 * 7 / 8)).all()


def test_the_random_numbers_are_the_same_on_every_machine_and_release() -> None:
    assert (number(0, 0), number(1337, 5)) == (0.6524484863740322, 0.9350198048601636)


def test_repetition_penalty_makes_seen_tokens_less_likely_whatever_their_sign() -> None:
    one = text_row([0], [1], temperature=0.0, repetition_penalty=2.0)
    assert tokens_of(torch.tensor([[3.0, 2.0, 1.6]]), [one]) == [2]
    assert tokens_of(torch.tensor([[-1.0, -1.5, -1.9]]), [one]) == [2]
    assert tokens_of(torch.tensor([[3.0, 2.0, 1.4]]), [one]) == [0]


def test_frequency_counts_and_presence_does_not_and_the_prompt_is_spared() -> None:
    logits = torch.tensor([[5.0, 5.0, 3.0, 3.5]])
    often = text_row([0, 0, 0], [1, 1, 3], temperature=0.0, frequency_penalty=0.9)
    once = text_row([0, 0, 0], [1, 1, 3], temperature=0.0, presence_penalty=0.9)
    for one, expected in ((often, [5.0, 3.2, 3.0, 2.6]), (once, [5.0, 4.1, 3.0, 2.6])):
        changed = logits.clone()
        assert tokens_of(changed, [one]) == [0]
        torch.testing.assert_close(changed, torch.tensor([expected]))


def test_logit_bias_is_added() -> None:
    one = row(temperature=0.0, logit_bias=((2, 100.0), (1, -100.0)))
    assert tokens_of(torch.tensor([[0.0, 9.0, -5.0]]), [one]) == [2]


def test_logprobs_are_of_the_models_own_distribution_whatever_is_asked_for() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    expected = logits.double().log_softmax(-1)[0].tolist()
    one = row(temperature=0.0, logit_bias=((0, 100.0),), logprobs=2)
    (found,) = sample(logits.clone(), [one])
    assert found.logprobs is not None
    assert (found.token, found.logprobs.token) == (0, 0)
    assert [token for token, _ in found.logprobs.top] == [1, 2]
    values = [found.logprobs.logprob, *(value for _, value in found.logprobs.top)]
    assert values == pytest.approx([expected[0], expected[1], expected[2]], abs=1e-6)


def test_each_row_gets_as_many_alternatives_as_it_asks_for() -> None:
    rows = [
        row(temperature=0.0),
        row(temperature=0.0, logprobs=0),
        row(temperature=0.0, logprobs=9),
    ]
    found = sample(torch.tensor([[0.0, 1.0]] * 3), rows)
    shown = [None if one.logprobs is None else len(one.logprobs.top) for one in found]
    assert shown == [None, 0, 2]


def test_prompt_logprobs_are_of_the_tokens_that_follow() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    found = prompt_logprobs(logits, [1, 0], 1)
    assert found[1] == TokenLogprobs(0, pytest.approx(math.log(0.75)), ((0, found[1].logprob),))
    assert found[0].logprob == pytest.approx(math.log(0.5))


def test_no_rows_give_no_tokens() -> None:
    assert sample(torch.empty(0, 300), []) == []
