"""Silence is judged by the phase and by the usual gap."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from shared.base.settings import Settings
from shared.contracts.progress import PhaseLine, ProgressLine
from shared.jobs.worker.watchdog import Watchdog


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def train_steps(watchdog: Watchdog, clock: Clock, gaps: list[float]) -> None:
    watchdog.saw(PhaseLine(phase="training"))
    for step, gap in enumerate(gaps):
        clock.now += gap
        watchdog.saw(ProgressLine(step=step, total_steps=100))


def be_silent(watchdog: Watchdog, clock: Clock, seconds: float) -> bool:
    """Look every second, as a supervisor does; return the last answer."""
    end, is_hung = clock.now + seconds, False
    while clock.now < end:
        clock.now = min(clock.now + 1, end)
        is_hung = watchdog.is_hung()
    return is_hung


def test_silence_before_a_usual_gap_is_known_may_be_long() -> None:
    clock = Clock()
    watchdog = Watchdog(Settings(), clock)
    assert watchdog.budget == 1800
    train_steps(watchdog, clock, [1, 1])
    assert watchdog.budget == 1800
    assert not be_silent(watchdog, clock, 1800)
    assert be_silent(watchdog, clock, 1)


@pytest.mark.parametrize(
    ("gaps", "budget"), [([1, 1, 1], 120), ([40, 2, 40, 41], 200), ([30, 30, 1000], 150)]
)
def test_training_may_be_silent_for_five_usual_gaps(gaps: list[float], budget: float) -> None:
    clock = Clock()
    watchdog = Watchdog(Settings(), clock)
    train_steps(watchdog, clock, gaps)
    assert watchdog.budget == budget
    assert not be_silent(watchdog, clock, budget)
    assert be_silent(watchdog, clock, 0.5)
    watchdog.saw(ProgressLine(step=99, total_steps=100))
    assert not watchdog.is_hung()


def test_other_phases_have_their_own_budget_and_no_part_in_the_usual_gap() -> None:
    clock = Clock()
    watchdog = Watchdog(Settings(), clock)
    train_steps(watchdog, clock, [1, 1, 1])
    watchdog.saw(PhaseLine(phase="sampling"))
    assert watchdog.budget == 1800
    watchdog.saw(PhaseLine(phase="compile"))
    assert watchdog.budget == 1200
    clock.now += 1000
    watchdog.saw(ProgressLine(step=3, total_steps=100))
    watchdog.saw(PhaseLine(phase="training"))
    assert watchdog.budget == 120


def test_evaluating_is_paced_as_training_is() -> None:
    clock = Clock()
    watchdog = Watchdog(Settings(), clock)
    train_steps(watchdog, clock, [1, 1, 1])
    watchdog.saw(PhaseLine(phase="evaluating"))
    assert watchdog.budget == 120
    for step in range(9):
        clock.now += 50
        watchdog.saw(ProgressLine(step=step, total_steps=100))
    assert watchdog.budget == 250


def test_process_that_leaves_has_no_pace() -> None:
    clock = Clock()
    watchdog = Watchdog(Settings(), clock)
    train_steps(watchdog, clock, [1, 1, 1])
    watchdog.expect_end()
    assert watchdog.budget == 1800
    watchdog.saw(ProgressLine(step=4, total_steps=100))
    assert watchdog.budget == 1800


def test_time_in_which_we_slept_ourselves_hardly_counts() -> None:
    clock = Clock()
    watchdog = Watchdog(Settings(), clock)
    train_steps(watchdog, clock, [1, 1, 1])
    for _ in range(4):
        clock.now += 10_000
        assert not watchdog.is_hung()
    assert watchdog.silence == 120


def test_durations_are_scaled() -> None:
    clock = Clock()
    watchdog = Watchdog(Settings(time_factor=0.1), clock)
    assert watchdog.budget == pytest.approx(180)
    train_steps(watchdog, clock, [1, 1, 1])
    assert watchdog.budget == pytest.approx(12)
