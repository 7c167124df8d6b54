"""Wishes reach the process whenever they come, and the strongest counts."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from shared.base.process import start_process
from shared.base.settings import Settings, child_environment
from shared.jobs.program import Stop
from shared.jobs.worker.control import Control

Process = subprocess.Popen[bytes]


@pytest.fixture
def sleeper() -> Iterator[Process]:
    process = start_process(
        [sys.executable, "-c", "import time; time.sleep(300)"], environment=child_environment()
    )
    yield process
    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.parametrize(
    ("stop", "number"),
    [
        (Stop.DRAIN, signal.SIGTERM),
        (Stop.PAUSE, signal.SIGUSR1),
        (Stop.CANCEL, signal.SIGUSR2),
    ],
)
def test_each_wish_has_its_signal(sleeper: Process, stop: Stop, number: signal.Signals) -> None:
    control = Control(Settings())
    control.attach(sleeper)
    control.ask(stop)
    assert sleeper.wait(timeout=20) == -number
    assert control.requested is stop
    control.close()


def test_wish_from_before_the_start_is_kept(sleeper: Process) -> None:
    control = Control(Settings())
    control.ask(Stop.PAUSE)
    control.attach(sleeper)
    assert sleeper.wait(timeout=20) == -signal.SIGUSR1
    control.close()


def test_cancel_overrides_pause_and_is_not_overridden() -> None:
    control = Control(Settings())
    for stop in (Stop.DRAIN, Stop.PAUSE, Stop.DRAIN):
        control.ask(stop)
    assert control.requested is Stop.PAUSE
    assert not control.abandoned.is_set()
    control.ask(Stop.CANCEL)
    control.ask(Stop.PAUSE)
    assert control.requested is Stop.CANCEL
    assert control.abandoned.is_set()
    assert not control.given_up.is_set()
    control.close()


def test_process_is_killed_when_its_grace_is_over() -> None:
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('ready', flush=True); time.sleep(300)"
    )
    process = start_process(
        [sys.executable, "-c", code], environment=child_environment(), output=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    control = Control(Settings(time_factor=0.001))
    control.attach(process)
    control.ask(Stop.DRAIN)
    assert process.wait(timeout=20) == -signal.SIGKILL
    assert control.given_up.is_set()
    control.close()
    process.stdout.close()
    assert process.stdin is not None
    process.stdin.close()


def test_lost_lease_kills_at_once_also_what_starts_later(sleeper: Process) -> None:
    control = Control(Settings())
    control.lose()
    control.attach(sleeper)
    assert sleeper.wait(timeout=20) == -signal.SIGKILL
    assert control.lost
    control.close()


def test_end_of_the_attempt_ends_its_deadlines() -> None:
    control = Control(Settings(time_factor=0.001))
    control.close()
    control.ask(Stop.DRAIN)
    assert control.requested is None
