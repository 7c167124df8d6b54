"""Real processes: their lines, their end, and an orderly stop."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from ryangpt.children import Child, ChildEndedError, stop_children
from ryangpt.signals import StopRequests
from shared.base.settings import child_environment
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

OBEDIENT = "import time; print('ready', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('ready', flush=True); time.sleep(600)"
)


class Lines:
    """Collects what children write and waits for it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def add(self, name: str, line: str) -> None:
        with self._lock:
            self.seen.append((name, line))


def start(name: str, code: str, lines: Lines) -> Child:
    command = [sys.executable, "-c", code]
    return Child(name, command, environment=child_environment(), on_line=lines.add)


def test_lines_arrive_with_the_name_and_odd_bytes_do_no_harm() -> None:
    lines = Lines()
    code = (
        r"import sys; sys.stdout.buffer.write(b'one\n\xff two\n'); print('three', file=sys.stderr)"
    )
    child = start("api", code, lines)
    assert child.wait() == 0
    assert sorted(lines.seen) == [("api", "one"), ("api", "three"), ("api", "\ufffd two")]


def test_an_end_is_told_with_the_last_lines() -> None:
    lines = Lines()
    code = "for i in range(30): print('line', i)\nraise SystemExit(3)"
    child = start("trainer", code, lines)
    wait_until(lambda: child.returncode is not None, "the child has ended")
    with pytest.raises(ChildEndedError) as caught:
        child.check()
    assert caught.value.message == (
        "The process `trainer` ended unexpectedly (exit status 3); it is not restarted."
    )
    assert caught.value.last_lines == [f"trainer | line {i}" for i in range(10, 30)]
    child.kill()


def test_a_running_child_passes_the_check_and_a_killed_one_names_the_signal() -> None:
    child = start("api", OBEDIENT, lines := Lines())
    wait_until(lambda: lines.seen == [("api", "ready")], "the child is ready")
    child.check()
    child.kill()
    with pytest.raises(ChildEndedError, match=r"\(killed by SIGKILL\)"):
        child.check()


def test_stopping_asks_first_and_kills_after_the_grace() -> None:
    lines = Lines()
    children = [start("good", OBEDIENT, lines), start("bad", STUBBORN, lines)]
    wait_until(lambda: len(lines.seen) == 2, "both are ready")
    assert stop_children(children, grace=0.5, hurry=lambda: False) == ["bad"]
    assert [child.returncode for child in children] == [-signal.SIGTERM, -signal.SIGKILL]


def test_hurry_kills_at_once() -> None:
    lines = Lines()
    child = start("bad", STUBBORN, lines)
    wait_until(lambda: len(lines.seen) == 1, "it is ready")
    assert stop_children([child], grace=600.0, hurry=lambda: True) == ["bad"]


def test_members_of_an_ended_childs_group_are_swept_up() -> None:
    lines = Lines()
    code = (
        "import subprocess, sys; "
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    )
    child = start("api", code, lines)
    wait_until(lambda: len(lines.seen) == 1, "the grandchild runs")
    orphan = psutil.Process(int(lines.seen[0][1]))
    stop_children([child], grace=5.0, hurry=lambda: False)
    wait_until(lambda: not orphan.is_running(), "the grandchild is gone")


def test_children_die_with_their_starter(tmp_path: Path) -> None:
    code = (
        "import sys, time; from ryangpt.children import Child; "
        "from shared.base.settings import child_environment as environment; "
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']; "
        "child = Child('api', sleep, environment=environment(), on_line=print); "
        "print(child.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        child = psutil.Process(int(starter.stdout.readline()))
        starter.send_signal(signal.SIGKILL)
    wait_until(lambda: not child.is_running(), "the child is gone")


def test_a_stop_signal_is_counted_and_raised_only_where_allowed() -> None:
    with StopRequests() as requests:
        signal.raise_signal(signal.SIGTERM)
        assert requests.count == 1
        with pytest.raises(KeyboardInterrupt), requests.interruptible():
            pytest.fail("a signal that came before must be raised at once")
        requests.count = 0
        with pytest.raises(KeyboardInterrupt), requests.interruptible():
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert requests.count == 2
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
