"""Who computes what in a step: budget, order, slots, limits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.inference.scheduler import NeverFitsError, QueueFullError, Row, Scheduler
from services.inference.sequence import FinishReason, Sequence
from tests.unit.inference.builders import make_choices, make_sequence


def compute(rows: list[Row]) -> None:
    """As an engine does that knows the tokens of a step at once."""
    launch(rows)
    land(rows)


def launch(rows: list[Row]) -> None:
    for row in rows:
        row.sequence.num_cached = row.end
        row.sequence.num_pending += row.samples


def land(rows: list[Row]) -> None:
    for row in rows:
        row.sequence.num_pending -= row.samples
        if row.samples and not row.sequence.finished:
            row.sequence.accept(65)


def shape(rows: list[Row]) -> list[tuple[int, int, bool]]:
    return [(row.start, row.num_tokens, row.samples) for row in rows]


def test_a_prompt_that_fits_is_computed_at_once_and_then_one_token_a_step() -> None:
    scheduler = Scheduler(num_slots=2, token_budget=8, max_waiting=4)
    sequence = make_sequence(5)
    scheduler.add(sequence)
    seen = []
    for _ in range(3):
        rows = scheduler.plan()
        seen += shape(rows)
        compute(rows)
    assert seen == [(0, 5, True), (5, 1, True), (6, 1, True)]


def test_a_long_prompt_is_cut_into_chunks_and_samples_after_the_last() -> None:
    scheduler = Scheduler(num_slots=2, token_budget=8, max_waiting=4)
    scheduler.add(make_sequence(19))
    seen = []
    for _ in range(4):
        rows = scheduler.plan()
        seen += shape(rows)
        compute(rows)
    assert seen == [(0, 8, False), (8, 8, False), (16, 3, True), (19, 1, True)]


def test_a_generating_sequence_goes_on_beside_anothers_long_prompt() -> None:
    scheduler = Scheduler(num_slots=2, token_budget=8, max_waiting=4)
    first, second = make_sequence(2), make_sequence(20)
    scheduler.add(first)
    compute(scheduler.plan())
    scheduler.add(second)
    rows = scheduler.plan()
    assert [(row.sequence, row.num_tokens) for row in rows] == [(first, 1), (second, 7)]


def test_what_is_left_of_the_budget_goes_to_the_next_in_the_queue() -> None:
    scheduler = Scheduler(num_slots=3, token_budget=8, max_waiting=4)
    for length in (3, 4, 5):
        scheduler.add(make_sequence(length))
    assert shape(scheduler.plan()) == [(0, 3, True), (0, 4, True), (0, 1, False)]


def test_a_freed_slot_goes_to_the_one_that_waited_longest() -> None:
    scheduler = Scheduler(num_slots=1, token_budget=8, max_waiting=4)
    first, second, third = (make_sequence() for _ in range(3))
    for sequence in (first, second, third):
        scheduler.add(sequence)
    compute(scheduler.plan())
    assert (scheduler.num_running, scheduler.num_waiting) == (1, 2)
    scheduler.remove(first)
    assert [row.sequence for row in scheduler.plan()] == [second]
    assert second.slot == 0


def test_an_aborted_one_leaves_the_queue() -> None:
    scheduler = Scheduler(num_slots=1, token_budget=8, max_waiting=4)
    first, second = make_sequence(), make_sequence()
    scheduler.add(first)
    scheduler.add(second)
    scheduler.plan()
    scheduler.remove(second)
    scheduler.remove(second)
    assert scheduler.sequences() == [first]


def test_a_full_queue_refuses_and_keeps_what_it_has() -> None:
    scheduler = Scheduler(num_slots=1, token_budget=8, max_waiting=1)
    kept = [make_sequence(), make_sequence()]
    for sequence in kept:
        scheduler.add(sequence)
    with pytest.raises(QueueFullError) as caught:
        scheduler.add(make_sequence())
    assert (caught.value.status_code, caught.value.retry_after) == (429, 1)
    assert scheduler.sequences() == kept


def test_several_sequences_are_queued_all_or_none() -> None:
    scheduler = Scheduler(num_slots=1, token_budget=8, max_waiting=1)
    with pytest.raises(QueueFullError):
        scheduler.add(make_sequence(), make_sequence(), make_sequence())
    with pytest.raises(NeverFitsError):
        scheduler.add(make_sequence(), make_sequence(60, max_tokens=5))
    assert scheduler.sequences() == []
    both = [make_sequence(), make_sequence()]
    scheduler.add(*both)
    assert scheduler.sequences() == both


def test_waiting_prompts_are_bounded_in_tokens() -> None:
    scheduler = Scheduler(num_slots=1, token_budget=8, max_waiting=9, max_waiting_tokens=50)
    scheduler.add(make_sequence(60, max_tokens=1))  # a slot is free, so it does not wait
    scheduler.plan()
    scheduler.add(make_sequence(30))
    with pytest.raises(QueueFullError, match="Prompts of 30 tokens are waiting"):
        scheduler.add(make_sequence(21))
    scheduler.add(make_sequence(20))


def test_what_can_never_fit_is_refused() -> None:
    scheduler = Scheduler(num_slots=1, token_budget=8, max_waiting=1)
    with pytest.raises(NeverFitsError, match="need 65 tokens; there is room for 64"):
        scheduler.add(make_sequence(60, max_tokens=5))
    assert scheduler.num_waiting == 0
    scheduler.add(make_sequence(60, max_tokens=4))


def test_a_budget_that_lets_prompts_starve_is_refused() -> None:
    with pytest.raises(ValueError, match="token_budget 8 must exceed num_slots 8"):
        Scheduler(num_slots=8, token_budget=8, max_waiting=1)


def copies(rows: list[Row]) -> list[tuple[int, int, int | None]]:
    return [(row.start, row.num_tokens, row.copies) for row in rows]


def test_choices_of_one_prompt_compute_it_once_and_their_last_token_each() -> None:
    scheduler = Scheduler(num_slots=4, token_budget=8, max_waiting=4)
    scheduler.add(*make_choices(3, 12))
    seen = []
    for _ in range(4):
        rows = scheduler.plan()
        seen.append(copies(rows))
        compute(rows)
    assert seen == [
        [(0, 8, None)],
        [(8, 3, None)],
        [(11, 1, None), (11, 1, 0), (11, 1, 0)],
        [(12, 1, None)] * 3,
    ]


def test_a_choice_that_gets_its_slot_late_copies_one_that_still_runs() -> None:
    scheduler = Scheduler(num_slots=2, token_budget=8, max_waiting=4)
    first, second, third = make_choices(3, 5)
    scheduler.add(first, second, third)
    compute(scheduler.plan())
    compute(scheduler.plan())
    scheduler.remove(first)
    assert copies(scheduler.plan()) == [(5, 1, None), (4, 1, second.slot)]
    assert third.slot == 0


def test_a_choice_whose_others_have_ended_computes_the_prompt_itself() -> None:
    scheduler = Scheduler(num_slots=1, token_budget=8, max_waiting=4)
    first, second = make_choices(2, 5)
    scheduler.add(first, second)
    assert copies(scheduler.plan()) == [(0, 5, None)]
    scheduler.remove(first)
    assert copies(scheduler.plan()) == [(0, 5, None)]


def test_when_the_first_choice_is_aborted_the_next_one_computes_the_prompt() -> None:
    scheduler = Scheduler(num_slots=2, token_budget=8, max_waiting=4)
    first, second = make_choices(2, 20)
    scheduler.add(first, second)
    compute(scheduler.plan())
    scheduler.plan()
    scheduler.remove(first)
    assert copies(scheduler.plan()) == [(0, 8, None)]
    assert second.slot == 1


@pytest.mark.parametrize("wishes", [{"prompt_logprobs": 0}, {"num_prompt": 1}])
def test_what_cannot_be_shared_is_computed_for_each(wishes: dict[str, int]) -> None:
    scheduler = Scheduler(num_slots=2, token_budget=8, max_waiting=4)
    wishes = {"num_prompt": 3, **wishes}
    scheduler.add(*make_choices(2, **wishes))
    assert copies(scheduler.plan()) == [(0, wishes["num_prompt"], None)] * 2


def test_equal_prompts_of_two_requests_are_not_shared() -> None:
    scheduler = Scheduler(num_slots=2, token_budget=8, max_waiting=4)
    scheduler.add(make_sequence(3))
    scheduler.add(make_sequence(3))
    assert copies(scheduler.plan()) == [(0, 3, None), (0, 3, None)]


def test_a_request_is_fixed_to_its_version_with_its_first_slot() -> None:
    scheduler = Scheduler(num_slots=1, token_budget=8, max_waiting=4)
    (first, second), other = make_choices(2), make_sequence()
    scheduler.add(first, second)
    scheduler.add(other)
    assert not first.binding.is_fixed
    scheduler.plan()
    assert (second.slot, second.binding.is_fixed) == (None, True)
    assert not other.binding.is_fixed


class SchedulerMachine(RuleBasedStateMachine):
    """Any order of arrivals, steps and aborts."""

    stays_behind = False
    """Whether a step's tokens are known after the next one is planned only."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(num_slots=3, token_budget=7, max_waiting=4)
        self.alive: list[Sequence] = []
        self.flying: list[Row] = []

    @rule(choices=st.integers(1, 4), length=st.integers(1, 30), max_tokens=st.integers(1, 5))
    def arrive(self, choices: int, length: int, max_tokens: int) -> None:
        sequences = make_choices(choices, length, max_tokens=max_tokens)
        try:
            self.scheduler.add(*sequences)
        except QueueFullError:
            assert self.scheduler.num_waiting + choices > self.scheduler.max_waiting
        else:
            self.alive += sequences

    @rule()
    def step(self) -> None:
        rows = self.scheduler.plan()
        assert sum(row.num_tokens for row in rows) <= self.scheduler.token_budget
        assert bool(rows or any(not row.sequence.finished for row in self.flying)) == bool(
            self.alive
        )
        assert len({row.sequence.number for row in rows}) == len(rows)
        singles = [row.num_tokens == 1 and row.start > 0 and row.samples for row in rows]
        generating = [
            seq
            for seq in self.alive
            if 0 < seq.num_cached == seq.num_tokens - 1
            and seq.num_tokens < len(seq.prompt) + seq.sampling.max_tokens
        ]
        assert {seq.number for seq in generating} <= {row.sequence.number for row in rows}
        assert all(singles[: len(generating)])
        for row in rows:
            self.check_source(row)
        launch(rows)
        landing, self.flying = (self.flying, rows) if self.stays_behind else (rows, [])
        land(landing)
        for sequence in [one for one in self.alive if one.finished]:
            assert sequence.num_generated == sequence.sampling.max_tokens
            assert sequence.num_pending == 0, "nothing was computed beyond the last token"
            self.finish(sequence)

    def check_source(self, row: Row) -> None:
        """What a row begins with is cached, in its own slot or in that of another choice."""
        if row.copies is None:
            assert row.start == row.sequence.num_cached
            return
        (source,) = [one for one in self.alive if one.slot == row.copies]
        assert source.binding is row.sequence.binding
        assert 0 < row.start <= source.num_cached
        assert row.sequence.num_cached == 0

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        if self.alive:
            sequence = data.draw(st.sampled_from(self.alive))
            sequence.finish_reason = FinishReason.ABORT
            self.finish(sequence)

    def finish(self, sequence: Sequence) -> None:
        self.alive.remove(sequence)
        self.scheduler.remove(sequence)
        assert sequence.slot is None

    @invariant()
    def slots_are_owned_by_one_and_inside_the_cache(self) -> None:
        slots = [seq.slot for seq in self.alive if seq.slot is not None]
        assert len(set(slots)) == len(slots) == self.scheduler.num_running
        assert set(slots) <= set(range(self.scheduler.num_slots))

    @invariant()
    def nobody_is_lost(self) -> None:
        assert {seq.number for seq in self.scheduler.sequences()} == {s.number for s in self.alive}

    def teardown(self) -> None:
        """Without new arrivals everything ends in a bounded number of steps."""
        tokens = sum(len(seq.prompt) + seq.sampling.max_tokens for seq in self.alive)
        for _ in range(2 * tokens if self.stays_behind else tokens):
            self.step()
        assert self.alive == []


class BehindMachine(SchedulerMachine):
    """The same where the host is a step behind."""

    stays_behind = True


for machine in (SchedulerMachine, BehindMachine):
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestAnyOrder: Any = SchedulerMachine.TestCase
TestAnyOrderBehind: Any = BehindMachine.TestCase


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_those_who_wait_get_slots_in_order_of_arrival(lengths: list[int]) -> None:
    scheduler = Scheduler(num_slots=2, token_budget=5, max_waiting=10)
    arrived = [make_sequence(length, max_tokens=1) for length in lengths]
    for sequence in arrived:
        scheduler.add(sequence)
    served: list[Sequence] = []
    while rows := scheduler.plan():
        served += [row.sequence for row in rows if row.start == 0]
        compute(rows)
        for row in rows:
            if row.sequence.finished:
                scheduler.remove(row.sequence)
    assert list(dict.fromkeys(served)) == arrived
