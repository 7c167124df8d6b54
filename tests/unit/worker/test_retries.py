"""Outages are outlasted; other errors are not; nobody waits for what nobody wants."""

from __future__ import annotations

import threading

import pytest

from shared.base.errors import IntegrityError, UnavailableError
from shared.base.settings import Settings
from shared.jobs.worker.retries import AbandonedError, outlast_outage

SETTINGS = Settings(time_factor=0.001)


class Action:
    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def outlast(action: Action, abandoned: threading.Event, told: list[UnavailableError]) -> str:
    return outlast_outage(action, settings=SETTINGS, abandoned=abandoned, on_wait=told.append)


def test_outage_is_outlasted_and_told_once() -> None:
    action = Action(UnavailableError("first"), UnavailableError("second"))
    told: list[UnavailableError] = []
    assert outlast(action, threading.Event(), told) == "done"
    assert action.calls == 3
    assert [error.message for error in told] == ["first"]


def test_other_errors_pass_through() -> None:
    action = Action(IntegrityError("damaged"))
    with pytest.raises(IntegrityError):
        outlast(action, threading.Event(), [])
    assert action.calls == 1


def test_abandoned_work_is_tried_once_and_no_more() -> None:
    abandoned = threading.Event()
    abandoned.set()
    assert outlast(Action(), abandoned, []) == "done"
    action = Action(UnavailableError("gone"))
    with pytest.raises(AbandonedError, match="gone"):
        outlast(action, abandoned, [])
    assert action.calls == 1
