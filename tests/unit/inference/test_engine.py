"""The engine's loop: aborts, failures, shutdown, what it tells its observer."""

from __future__ import annotations

import gc
import time
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch

from services.inference.engine import EngineStoppedError
from services.inference.loaded_model import LoadedModel
from services.inference.scheduler import NeverFitsError
from services.inference.sequence import Delta, FailureCode, FinishReason
from tests.support.generation import BENCHES, EngineBench, answer_ids
from tests.support.models import small_tokenizer
from tests.support.serving import SMALL_MODELS, greedy_without_cache, random_model
from tests.support.waiting import wait_until

MODEL = random_model(SMALL_MODELS["arcee"])


@pytest.fixture(params=BENCHES)
def new_bench(request: pytest.FixtureRequest) -> type[EngineBench]:
    chosen: type[EngineBench] = request.param
    return chosen


def failing(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(loaded.network, "forward", fail)


def test_an_abort_frees_the_slot_at_once_and_delivers_nothing_more(
    new_bench: type[EngineBench],
) -> None:
    bench = new_bench(num_slots=1)
    loaded = bench.load(MODEL)
    first, second = bench.add(loaded, [5]), bench.add(loaded, [6], max_tokens=3)
    bench.engine.step()
    assert bench.engine.load == (1, 1)
    bench.engine.abort(first)
    delivered = len(bench.delivered)
    bench.finish()
    assert first.finish_reason is FinishReason.ABORT
    assert all(one is second for one, _ in bench.delivered[delivered:])
    assert answer_ids(second) == greedy_without_cache(MODEL, [6], 3)
    assert bench.engine.load == (0, 0)


def test_an_abort_during_the_computation_drops_its_result(new_bench: type[EngineBench]) -> None:
    bench = new_bench()
    loaded = bench.load(MODEL)
    sequence, other = bench.add(loaded, [5]), bench.add(loaded, [6], max_tokens=2)
    forward = loaded.network.forward

    def abort_meanwhile(*args: Any) -> Any:
        bench.engine.abort(sequence)
        return forward(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded.network, "forward", abort_meanwhile)
        bench.engine.step()
    bench.finish()
    assert answer_ids(sequence) == []
    assert answer_ids(other) == greedy_without_cache(MODEL, [6], 2)


def test_a_failing_model_fails_its_own_requests_only(
    new_bench: type[EngineBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = new_bench()
    bad, good = bench.load(MODEL), bench.load(MODEL, version=2)
    failing(bad, monkeypatch)
    lost, kept = bench.add(bad, [5]), bench.add(good, [6], max_tokens=5)
    bench.finish()
    errors = [delta.error for one, delta in bench.delivered if one is lost]
    assert errors == ["Computing the answer failed."]
    assert lost.finish_reason is FinishReason.ERROR
    assert answer_ids(kept) == greedy_without_cache(MODEL, [6], 5)
    assert bench.engine.load == (0, 0)


def test_its_thread_survives_a_failing_model(
    new_bench: type[EngineBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = new_bench()
    bad = bench.load(MODEL)
    failing(bad, monkeypatch)
    good = bench.load(MODEL, version=2)
    bench.engine.start()
    try:
        lost = bench.add(bad, [5])
        kept = bench.add(good, [6], max_tokens=5)
        wait_until(lambda: lost.finished and kept.finished, "both requests have ended")
        assert bench.engine.is_running
    finally:
        bench.engine.stop()
    assert answer_ids(kept) == greedy_without_cache(MODEL, [6], 5)


def test_stopping_fails_what_is_left_and_refuses_what_comes(new_bench: type[EngineBench]) -> None:
    bench = new_bench(num_slots=1)
    loaded = bench.load(MODEL)
    running, waiting = bench.add(loaded, [5]), bench.add(loaded, [6])
    bench.engine.step()
    bench.engine.stop()
    assert running.finish_reason is waiting.finish_reason is FinishReason.ERROR
    last = {one.number: delta.error for one, delta in bench.delivered}
    message = "The service is shutting down."
    assert last == {running.number: message, waiting.number: message}
    with pytest.raises(EngineStoppedError):
        bench.add(loaded, [7])


def test_a_request_beyond_the_context_is_refused(new_bench: type[EngineBench]) -> None:
    bench = new_bench()
    with pytest.raises(NeverFitsError):
        bench.add(bench.load(MODEL), [5] * 60, max_tokens=5)
    assert bench.engine.load == (0, 0)


def test_the_observer_can_count_every_token_and_every_end(new_bench: type[EngineBench]) -> None:
    bench = new_bench(token_budget=8)
    loaded = bench.load(MODEL)
    done, gone = bench.add(loaded, [5] * 10, max_tokens=4), bench.add(loaded, [6])
    bench.engine.step()
    bench.engine.abort(gone)
    bench.finish()
    assert sum(step.prompt_tokens for step in bench.observer.steps) == 10
    assert sum(step.generated_tokens for step in bench.observer.steps) == 4
    assert bench.observer.num_tokens == 4
    assert bench.observer.finished == [gone, done]


def test_one_delivery_a_step_carries_every_sequences_token(new_bench: type[EngineBench]) -> None:
    bench = new_bench()
    loaded = bench.load(MODEL)
    for token in (5, 6, 7):
        bench.add(loaded, [token], max_tokens=2)
    while not bench.delivered:
        bench.engine.step()
    assert [delta.num_tokens for _, delta in bench.delivered] == [1, 1, 1]
    behind = bench.runtime.runner.stays_behind
    assert [step.generated_tokens for step in bench.observer.steps] == [0, 3][not behind :]


def test_a_deadline_ends_what_runs_and_a_start_deadline_what_waits(
    new_bench: type[EngineBench],
) -> None:
    bench = new_bench(num_slots=1)
    loaded = bench.load(MODEL)
    late, unserved = bench.add(loaded, [5]), bench.add(loaded, [6])
    kept = bench.add(loaded, [7], max_tokens=3)
    bench.engine.step()
    late.deadline = unserved.start_deadline = kept.start_deadline = time.monotonic() - 1
    kept.start_deadline += 3600
    wait_until(lambda: bench.engine.step() and unserved.finished, "the deadlines are seen")
    bench.finish()
    codes = {one: delta.error_code for one, delta in bench.delivered if delta.error}
    assert codes == {late: FailureCode.TIMEOUT, unserved: FailureCode.QUEUE_TIMEOUT}
    assert answer_ids(kept) == greedy_without_cache(MODEL, [7], 3)
    assert bench.engine.load == (0, 0)


def test_retiring_a_version_fails_its_requests_and_no_others(new_bench: type[EngineBench]) -> None:
    bench = new_bench(num_slots=2)
    old, new = bench.load(MODEL), bench.load(MODEL, version=2)
    running, kept, waiting = bench.add(old, [5]), bench.add(new, [6]), bench.add(old, [7])
    bench.engine.step()
    assert bench.engine.uses(old)
    bench.engine.retire(old)
    assert not bench.engine.uses(old)
    bench.finish()
    codes = {one: delta.error_code for one, delta in bench.delivered if delta.error}
    assert codes == {running: FailureCode.RETIRED, waiting: FailureCode.RETIRED}
    assert answer_ids(kept) == greedy_without_cache(MODEL, [6], 20)


PROMPT = [5, 9, 200, 31, 7, 7, 80, 12, 250, 3, 4]


@pytest.mark.parametrize("num_slots", [6, 3])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_choices_copy_their_prompt_and_answer_as_if_each_had_computed_it(
    new_bench: type[EngineBench], num_slots: int, temperature: float
) -> None:
    wishes: dict[str, Any] = {"temperature": temperature, "seed": 7, "max_tokens": 8, "logprobs": 0}
    bench = new_bench(num_slots=num_slots, token_budget=8)
    loaded = bench.load(MODEL)
    shared = bench.add_choices(loaded, [PROMPT, PROMPT, [6], PROMPT, PROMPT], **wishes)
    bench.finish()
    alone = new_bench(num_slots=1, token_budget=64)
    expected = alone.add_choices(alone.load(MODEL), [PROMPT, PROMPT, [6], PROMPT, PROMPT], **wishes)
    alone.finish()
    answers = [answer_ids(one) for one in shared]
    assert answers == [answer_ids(one) for one in expected]
    if temperature == 0:
        assert answers[0] == greedy_without_cache(MODEL, PROMPT, 8)
    else:
        assert answers[0] != answers[1]
    computed = sum(step.prompt_tokens for step in bench.observer.steps)
    assert computed == len(PROMPT) + 3 + 1, "the last prompt token is computed for each choice"
    assert sum(step.prompt_tokens for step in alone.observer.steps) == 4 * len(PROMPT) + 1


def test_what_waits_is_answered_by_the_new_version_and_what_has_begun_by_the_old(
    new_bench: type[EngineBench],
) -> None:
    bench = new_bench(num_slots=2)
    other = random_model(SMALL_MODELS["arcee"], seed=5)
    old, new = bench.load(MODEL), bench.load(other, version=2)
    begun = bench.add_choices(old, [[5], [6], [7]], max_tokens=4)
    waiting = bench.add_choices(old, [[5], [6], [7]], max_tokens=4)
    bench.engine.step()
    assert [one.slot is None for one in begun] == [False, False, True]
    bench.engine.replace(old, new)
    assert {one.model for one in begun} == {old}
    assert {one.model for one in waiting} == {new}
    bench.finish()
    for sequences, model in ((begun, MODEL), (waiting, other)):
        for one in sequences:
            assert answer_ids(one) == greedy_without_cache(model, list(one.prompt), 4)


@pytest.mark.parametrize("difference", ["tokenizer", "stage", "context_length"])
def test_what_waits_stays_with_its_version_where_the_new_one_would_read_it_differently(
    new_bench: type[EngineBench], difference: str
) -> None:
    bench = new_bench(num_slots=1)
    old, new = bench.load(MODEL), bench.load(MODEL, version=2)
    if difference == "tokenizer":
        new = replace(new, tokenizer=small_tokenizer(310))
    elif difference == "stage":
        new = replace(new, pointer=new.pointer.model_copy(update={"stage": "finetune"}))
    else:
        shorter = SMALL_MODELS["arcee"].model_copy(update={"context_length": 32})
        new = bench.load(random_model(shorter), version=2)
    waiting = bench.add(old, [5])
    bench.engine.replace(old, new)
    assert waiting.model is old


@pytest.mark.parametrize("token_budget", [64, 8])
def test_prompt_logprobs_are_those_of_the_whole_text_also_in_chunks(
    new_bench: type[EngineBench], token_budget: int
) -> None:
    bench = new_bench(token_budget=token_budget)
    prompt = [5, 9, 200, 31, 7, 7, 80, 12, 250, 3, 4]
    loaded = bench.load(MODEL)
    neighbour = bench.add(loaded, [6], max_tokens=6)
    scored = bench.add(loaded, prompt, max_tokens=2, prompt_logprobs=1, logprobs=0)
    only_scored = bench.add(loaded, prompt, max_tokens=0, prompt_logprobs=0)
    bench.finish()
    text = prompt + answer_ids(scored)
    logprobs = MODEL(torch.tensor([text]))[0].detach().log_softmax(-1)
    expected = [float(logprobs[at, token]) for at, token in enumerate(text[1:])]
    whole = sum((delta for one, delta in bench.delivered if one is scored), Delta())
    assert whole.prompt_logprobs is not None
    assert whole.prompt_logprobs[0] is None
    found = [one for one in (*whole.prompt_logprobs[1:], *whole.logprobs) if one is not None]
    assert [one.token for one in found] == text[1:]
    assert [one.logprob for one in found] == pytest.approx(expected, abs=2e-5)
    likeliest = [one.top[0][0] for one in found[: len(prompt) - 1]]
    assert likeliest == logprobs[: len(prompt) - 1].argmax(-1).tolist()
    (short,) = [delta for one, delta in bench.delivered if one is only_scored]
    assert short.finish_reason is FinishReason.LENGTH
    assert short.prompt_logprobs is not None
    assert len(short.prompt_logprobs) == len(prompt)
    assert answer_ids(neighbour) == greedy_without_cache(MODEL, [6], 6)


def test_text_and_tokens_agree(new_bench: type[EngineBench]) -> None:
    bench = new_bench()
    sequence = bench.add(bench.load(MODEL), [5, 6, 7])
    bench.finish()
    text = sequence.model.tokenizer.decode(answer_ids(sequence))
    assert bench.text(sequence) == text


def test_weights_are_freed_with_the_last_request_that_uses_them(
    new_bench: type[EngineBench],
) -> None:
    bench = new_bench()
    model = bench.load(MODEL)
    old = weakref.ref(model)
    sequence = bench.add(model, [5])
    del model
    bench.finish()
    assert old() is sequence.model
    bench.delivered.clear()
    bench.observer.finished.clear()
    del sequence
    gc.collect()
    assert old() is None
