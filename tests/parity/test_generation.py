"""Generation with cache, chunks and batches against the training module computed anew each time."""

from __future__ import annotations

import pytest
import torch

from services.inference.loaded_model import BatchRow
from shared.model.transformer import Transformer
from tests.support.generation import BENCHES, EngineBench, answer_ids
from tests.support.serving import SMALL_MODELS, greedy_without_cache, random_model

FAMILIES = sorted(SMALL_MODELS)
PROMPTS = [[5], [7, 9, 11], list(range(20, 60)), [299, 3, 3, 3, 250], list(range(100, 131))]


@pytest.fixture(params=BENCHES)
def new_bench(request: pytest.FixtureRequest) -> type[EngineBench]:
    chosen: type[EngineBench] = request.param
    return chosen


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Transformer:
    return random_model(SMALL_MODELS[request.param])


def test_the_test_models_say_something(model: Transformer) -> None:
    """Answers that repeat one token, or do not depend on the prompt, would prove nothing."""
    answers = [greedy_without_cache(model, prompt, 20) for prompt in PROMPTS]
    assert len({tuple(answer) for answer in answers}) == len(PROMPTS)
    assert all(len(set(answer)) >= 5 for answer in answers)


@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
def test_greedy_with_the_cache_gives_the_tokens_without_it(
    new_bench: type[EngineBench], model: Transformer, prompt: list[int]
) -> None:
    bench = new_bench()
    sequence = bench.add(bench.load(model), prompt)
    bench.finish()
    assert answer_ids(sequence) == greedy_without_cache(model, prompt, 20)


@pytest.mark.parametrize("token_budget", [7, 16, 64])
def test_chunks_and_batches_change_nothing(
    new_bench: type[EngineBench], model: Transformer, token_budget: int
) -> None:
    bench = new_bench(token_budget=token_budget)
    loaded = bench.load(model)
    sequences = [bench.add(loaded, prompt) for prompt in PROMPTS]
    bench.finish()
    expected = [greedy_without_cache(model, prompt, 20) for prompt in PROMPTS]
    assert [answer_ids(sequence) for sequence in sequences] == expected


def test_requests_that_come_and_go_change_nothing(
    new_bench: type[EngineBench], model: Transformer
) -> None:
    """Slots are reused, lie apart, and are freed by aborts while others run."""
    bench = new_bench(num_slots=4, token_budget=12)
    loaded = bench.load(model)
    sequences = []
    for number, prompt in enumerate(PROMPTS * 2):
        sequences.append(bench.add(loaded, prompt, max_tokens=4 + 3 * number % 17))
        bench.engine.step()
        bench.engine.step()
        if number % 4 == 1:
            bench.engine.abort(sequences[number - 1])
    bench.finish()
    complete = [one for one in sequences if one.finish_reason == "length"]
    assert len(complete) >= len(sequences) - 3
    for one in complete:
        twin = greedy_without_cache(model, list(one.prompt), one.sampling.max_tokens)
        assert answer_ids(one) == twin


def test_logits_of_every_position_agree(new_bench: type[EngineBench], model: Transformer) -> None:
    bench = new_bench()
    loaded = bench.load(model)
    ids = torch.randint(300, (64,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.inference_mode():
        expected = model(torch.tensor([ids]))[0]
    found = []
    for start, end in ((0, 10), (10, 11), (11, 40), (40, 64)):
        rows = [BatchRow(ids=ids[start:end], start=start, slot=3, num_logits=1)]
        found.append(loaded.compute(rows)[0])
    ends = expected[[9, 10, 39, 63]]
    assert (torch.stack(found) - ends).abs().max() < 2e-5


def test_two_models_share_one_batch_of_steps_and_one_cache(
    new_bench: type[EngineBench], model: Transformer
) -> None:
    other = random_model(model.config, seed=9)
    bench = new_bench()
    first, second = bench.load(model), bench.load(other, version=2)
    assert first.cache is second.cache
    sequences = [bench.add((first, second)[n % 2], prompt) for n, prompt in enumerate(PROMPTS)]
    bench.finish()
    for number, (sequence, prompt) in enumerate(zip(sequences, PROMPTS, strict=True)):
        twin = greedy_without_cache((model, other)[number % 2], prompt, 20)
        assert answer_ids(sequence) == twin


def test_a_seeded_answer_does_not_depend_on_its_neighbours(
    new_bench: type[EngineBench], model: Transformer
) -> None:
    wishes = {"temperature": 0.9, "seed": 1234, "top_k": 50}
    alone, among = new_bench(), new_bench(token_budget=9)
    expected = alone.add(alone.load(model), PROMPTS[1], **wishes)
    alone.finish()
    loaded = among.load(model)
    among.add(loaded, PROMPTS[2], temperature=1.3, top_p=0.4)
    among.engine.step()
    found = among.add(loaded, PROMPTS[1], **wishes)
    among.add(loaded, PROMPTS[4], temperature=0.0)
    among.finish()
    other_seed = alone.add(alone.load(model), PROMPTS[1], **{**wishes, "seed": 4321})
    alone.finish()
    assert answer_ids(found) == answer_ids(expected)
    assert answer_ids(other_seed) != answer_ids(expected)


def test_a_request_may_fill_the_context_to_the_last_token(
    new_bench: type[EngineBench], model: Transformer
) -> None:
    bench = new_bench()
    prompt = list(range(3, 53))
    sequence = bench.add(bench.load(model), prompt, max_tokens=14)
    bench.finish()
    assert len(sequence.tokens) == model.config.context_length
    assert answer_ids(sequence) == greedy_without_cache(model, prompt, 14)
