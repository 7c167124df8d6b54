"""A step behind: what is launched before what is known, and that it changes no answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from services.inference.resident.slot_table import SlotTable
from services.inference.sequence import Delta, FinishReason, Sequence
from tests.support.generation import EngineBench, ResidentBench, answer_ids
from tests.support.serving import SMALL_MODELS, greedy_without_cache, random_model
from tests.support.waiting import wait_until

MODEL = random_model(SMALL_MODELS["llama"])
WISHES: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 5},
    {"temperature": 0.8, "seed": 6, "top_k": 20, "top_p": 0.9},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.4},
    {"temperature": 1.2, "seed": 7, "presence_penalty": 1.0, "min_p": 0.02},
    {"logit_bias": ((17, 6.0), (18, -5.0)), "logprobs": 3},
    {"temperature": 0.9, "seed": 8, "logprobs": 0, "prompt_logprobs": 2},
    {"min_tokens": 6, "end_ids": frozenset(range(0, 300, 3))},
    {"max_tokens": 1, "logprobs": 1},
    {"max_tokens": 0, "prompt_logprobs": 1},
]


def run(bench: EngineBench) -> list[tuple[list[int], FinishReason | None, Delta]]:
    """Requests of every kind that come while others run, more than there are slots for."""
    loaded = bench.load(MODEL)
    sequences: list[Sequence] = []
    for number, wishes in enumerate(WISHES * 2):
        prompt = [(31 * number + 7 * place) % 300 for place in range(1 + 5 * number % 13)]
        sequences.append(bench.add(loaded, prompt, **{"max_tokens": 12, **wishes}))
        for _ in range(number % 3):
            bench.engine.step()
    bench.finish()
    whole = {
        id(one): sum((delta for other, delta in bench.delivered if other is one), Delta())
        for one in sequences
    }
    return [(answer_ids(one), one.finish_reason, whole[id(one)]) for one in sequences]


@pytest.mark.parametrize("num_slots", [2, 5])
def test_any_mix_of_wishes_is_answered_as_the_host_answers_it(num_slots: int) -> None:
    kinds = [kind(num_slots=num_slots, token_budget=16) for kind in (EngineBench, ResidentBench)]
    for expected, found in zip(*map(run, kinds), strict=True):
        assert found[:2] == expected[:2]
        assert (found[2].text, found[2].tokens) == (expected[2].text, expected[2].tokens)
        for name in ("logprobs", "prompt_logprobs"):
            scores = [getattr(one[2], name) for one in (found, expected)]
            assert [score is None for score in scores] == [scores[1] is None] * 2
            for one, other in zip(*(score or () for score in scores), strict=True):
                assert (one is None) == (other is None)
                if one is not None:
                    assert (one.token, [t for t, _ in one.top]) == (
                        other.token, [t for t, _ in other.top],
                    )  # fmt: skip
                    assert one.logprob == pytest.approx(other.logprob, abs=2e-5)


def test_a_step_is_launched_before_the_token_that_it_goes_on_from_is_known() -> None:
    bench = ResidentBench()
    sequence = bench.add(bench.load(MODEL), [5, 6], max_tokens=3)
    bench.engine.step()
    assert (answer_ids(sequence), sequence.num_pending, sequence.num_cached) == ([], 1, 2)
    bench.engine.step()
    assert (len(answer_ids(sequence)), sequence.num_pending, sequence.num_cached) == (1, 1, 3)
    bench.engine.step()
    assert (len(answer_ids(sequence)), sequence.num_pending, sequence.num_cached) == (2, 1, 4)
    assert bench.engine.step(), "nothing is launched, but the last token lands"
    assert answer_ids(sequence) == greedy_without_cache(MODEL, [5, 6], 3)
    assert sequence.num_cached == 4, "no step was computed beyond max_tokens"
    assert not bench.engine.step()


def test_a_token_computed_after_the_end_is_dropped_and_its_slot_is_clean_again() -> None:
    first = greedy_without_cache(MODEL, [5, 6], 5)
    bench = ResidentBench(num_slots=1)
    loaded = bench.load(MODEL)
    ended = bench.add(loaded, [5, 6], end_ids=frozenset({first[2]}))
    follower = bench.add(loaded, [9, 8, 7], max_tokens=8)
    bench.finish()
    assert answer_ids(ended) == first[: first.index(first[2]) + 1]
    assert ended.finish_reason is FinishReason.STOP
    assert answer_ids(follower) == greedy_without_cache(MODEL, [9, 8, 7], 8)
    tokens = sum(delta.num_tokens for one, delta in bench.delivered if one is ended)
    assert tokens == len(answer_ids(ended))


def test_an_abort_in_flight_drops_the_token() -> None:
    bench = ResidentBench(num_slots=1)
    loaded = bench.load(MODEL)
    gone, follower = bench.add(loaded, [5, 6]), bench.add(loaded, [7], max_tokens=6)
    bench.engine.step()
    bench.engine.step()
    bench.engine.abort(gone)
    known = len(answer_ids(gone))
    bench.finish()
    assert len(answer_ids(gone)) == known
    assert answer_ids(follower) == greedy_without_cache(MODEL, [7], 6)


def test_what_fails_on_its_way_ends_its_requests_and_no_others() -> None:
    bench = ResidentBench()
    loaded, other = bench.load(MODEL), bench.load(MODEL, version=2)
    lost, kept = bench.add(loaded, [5]), bench.add(other, [6], max_tokens=5)
    bench.engine.step()
    (launched, _) = bench.engine._flying
    assert launched.flight is not None

    def fail() -> None:
        raise RuntimeError("the device is gone")

    launched.flight.land = fail  # type: ignore[method-assign, assignment]
    bench.finish()
    assert lost.finish_reason is FinishReason.ERROR
    assert answer_ids(kept) == greedy_without_cache(MODEL, [6], 5)
    assert bench.engine.load == (0, 0)


def no_memory(*_: Any) -> None:
    raise RuntimeError("no memory")


def test_a_device_that_computes_no_more_is_no_running_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some failures leave a GPU's process useless: it should be started again."""
    bench = ResidentBench()
    loaded = bench.load(MODEL)
    monkeypatch.setattr(loaded.network, "forward", no_memory)
    bench.engine.start()
    try:
        for is_usable in (True, False):
            monkeypatch.setattr(bench.runtime.runner, "is_usable", lambda answer=is_usable: answer)
            lost = bench.add(loaded, [5])
            wait_until(lambda one=lost: one.finished, "the request has failed")
            assert bench.engine.is_running is is_usable
    finally:
        bench.engine.stop()


def test_padding_rows_touch_scratch_alone() -> None:
    """Three rows run in a step for four."""
    bench = ResidentBench(num_slots=5)
    loaded = bench.load(MODEL)
    for token in (5, 6, 7):
        bench.add(loaded, [token], max_tokens=9)
    for _ in range(5):
        bench.engine.step()
    assert loaded.resident is not None
    table = loaded.resident.table
    assert table.length.tolist() == [5, 5, 5, 0, 0, 0]
    context = loaded.context_length
    for keys in loaded.cache.keys:
        assert not keys[3 * context : table.scratch * context].any()


def test_the_table_is_as_large_as_it_says() -> None:
    table = SlotTable(7, 300, torch.device("cpu"))
    dense = 8 * 300 * (2 + 1 + 4 + 1)
    assert table.num_bytes == dense + 8 * (3 * 8 + 6 * 4 + 3 * 8)
