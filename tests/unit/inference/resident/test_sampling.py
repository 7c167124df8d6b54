"""Sampling by slots against the host's sampler: the same tokens for any wishes, step after step."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.resident.sampling import Effort, effort_of, sample_slots
from services.inference.resident.slot_table import Admission, SlotTable
from services.inference.sampler import SampleRow, sample
from services.inference.sequence import SamplingParams

CPU = torch.device("cpu")
NUM_SLOTS, VOCAB_SIZE = 6, 40

wishes = st.builds(
    SamplingParams,
    max_tokens=st.just(99),
    seed=st.integers(-(2**63), 2**63 - 1),
    temperature=st.sampled_from([0.0, 0.0, 1e-4, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 0, 1, 3, VOCAB_SIZE, 99]),
    top_p=st.sampled_from([1.0, 1.0, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.0, 0.1, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.5, 0.5]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.5, -2.0]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.7]),
    logit_bias=st.sampled_from([(), (), ((3, 100.0),), ((3, -100.0), (7, 2.0))]),
    min_tokens=st.sampled_from([0, 0, 2]),
    end_ids=st.sampled_from([frozenset(), frozenset({3, 5})]),
)
prompts = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=5)


def logits_of(step: int, rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return 3 * torch.randn(rows, VOCAB_SIZE, generator=generator)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(wishes, prompts), min_size=1, max_size=NUM_SLOTS), st.data())
def test_slots_draw_what_the_host_would(
    asked: list[tuple[SamplingParams, list[int]]], data: st.DataObject
) -> None:
    slots = data.draw(st.permutations(range(NUM_SLOTS)))[: len(asked)]
    table = SlotTable(NUM_SLOTS, VOCAB_SIZE, CPU)
    table.admit(
        [
            Admission(number, slot, params, prompt)
            for number, (slot, (params, prompt)) in enumerate(zip(slots, asked, strict=True))
        ]
    )
    params = [one for one, _ in asked]
    texts = [list(prompt) for _, prompt in asked]
    padded = torch.tensor([*slots, table.scratch, table.scratch])
    for step in range(4):
        logits = logits_of(step, len(padded))
        before = logits.clone()
        chosen = sample_slots(logits, padded, table, effort_of(params))
        assert torch.equal(logits, before)
        rows = [
            SampleRow(params=one, tokens=text, num_prompt=len(prompt))
            for one, text, (_, prompt) in zip(params, texts, asked, strict=True)
        ]
        expected = [drawn.token for drawn in sample(logits[: len(slots)], rows)]
        assert chosen[: len(slots)].tolist() == expected
        assert table.token[slots].tolist() == expected
        for text, token in zip(texts, expected, strict=True):
            text.append(token)


def test_a_slot_keeps_nothing_of_the_sequence_before() -> None:
    table = SlotTable(2, VOCAB_SIZE, CPU)
    first = SamplingParams(
        max_tokens=9, seed=1, temperature=0.0, repetition_penalty=2.0, frequency_penalty=2.0,
        logit_bias=((5, 50.0),), min_tokens=9, end_ids=frozenset({1, 2}),
    )  # fmt: skip
    table.admit([Admission(1, 0, first, [7, 8])])
    for step in range(3):
        sample_slots(logits_of(step, 1), torch.tensor([0]), table, Effort.DRAWN)
    assert (table.holds(0, 1), table.holds(1, 1)) == (True, False)
    second = SamplingParams(max_tokens=9, seed=1, temperature=0.0, min_tokens=1)
    table.admit([Admission(2, 0, second, [9])])
    assert (table.holds(0, 1), table.holds(0, 2)) == (False, True)
    for dense in (table.answered, table.seen, table.bias, table.ends):
        assert not dense[0].any()
    assert int(table.num_generated[0]) == 0
    logits = logits_of(9, 1)
    chosen = sample_slots(logits, torch.tensor([0]), table, Effort.DRAWN)
    assert chosen.tolist() == logits.argmax(-1).tolist()


def test_the_effort_is_what_the_most_demanding_row_needs() -> None:
    def params(**asked: object) -> SamplingParams:
        return SamplingParams(max_tokens=9, seed=0, **{"temperature": 0.0, **asked})  # type: ignore[arg-type]

    greedy, drawn = params(), params(temperature=1.0)
    assert effort_of([greedy, greedy]) is Effort.LIKELIEST
    assert effort_of([greedy, params(top_k=5)]) is Effort.LIKELIEST, "the likeliest is never cut"
    assert effort_of([greedy, params(frequency_penalty=1.0)]) is Effort.DRAWN
    assert effort_of([greedy, params(min_tokens=1)]) is Effort.DRAWN
    assert effort_of([greedy, drawn]) is Effort.DRAWN
    assert effort_of([drawn, params(temperature=1.0, top_p=0.9), greedy]) is Effort.FILTERED
