"""Real processes: they are found, slowed, signalled as a group, and die with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.base.process import signal_group, start_process
from shared.base.settings import child_environment

SLEEP = "import time; time.sleep(60)"
MIDDLE = """
import sys
from shared.base.process import start_process
from shared.base.settings import child_environment
child = start_process([sys.executable, "-c", sys.argv[1]], environment=child_environment())
print(child.pid, flush=True)
child.wait()
"""
CHILD = "from shared.base.process import die_with_parent; die_with_parent();"


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether `pid` runs; a zombie that nobody has waited for yet counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def start_middle(child_code: str) -> tuple[subprocess.Popen[str], int]:
    middle = subprocess.Popen(
        [sys.executable, "-c", MIDDLE, child_code], stdout=subprocess.PIPE, text=True
    )
    assert middle.stdout is not None
    return middle, int(middle.stdout.readline())


def finish(middle: subprocess.Popen[str]) -> None:
    middle.kill()
    middle.wait()
    assert middle.stdout is not None
    middle.stdout.close()


def test_child_dies_when_its_parent_is_killed(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    middle, child = start_middle(f"{CHILD} open({str(ready)!r}, 'w').close(); {SLEEP}")
    wait_until(ready.exists)
    finish(middle)
    wait_until(lambda: not is_alive(child), seconds=2)


def test_child_that_asks_too_late_still_dies(tmp_path: Path) -> None:
    """The parent is gone before the child reaches `die_with_parent`: the pipe tells."""
    go, survived = tmp_path / "go", tmp_path / "survived"
    late = (
        f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
        f"{CHILD}\nopen({str(survived)!r}, 'w').close(); {SLEEP}"
    )
    middle, child = start_middle(late)
    finish(middle)
    assert is_alive(child)
    go.touch()
    wait_until(lambda: not is_alive(child))
    assert not survived.exists()


def test_process_leads_a_session_and_group_of_its_own_and_is_nicer(tmp_path: Path) -> None:
    code = "import os; print(os.getpid() == os.getsid(0) == os.getpgid(0)); input()"
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = start_process(
            [sys.executable, "-u", "-c", code],
            environment=child_environment(),
            output=output,
            niceness=5,
        )
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == os.getpriority(os.PRIO_PROCESS, 0) + 5
    wait_until(lambda: log.read_text() != "")
    assert log.read_text() == "True\n"
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.close()
    assert process.wait(timeout=20) == 0


def test_group_signal_reaches_a_grandchild_whose_parent_has_ended(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\n"
        f"print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid, flush=True)"
    )
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = start_process(
            [sys.executable, "-c", code], environment=child_environment(), output=output
        )
    assert process.wait(timeout=20) == 0
    assert process.stdin is not None
    process.stdin.close()
    grandchild = int(log.read_text())
    assert is_alive(grandchild)
    assert signal_group(process, signal.SIGKILL) is True
    wait_until(lambda: not is_alive(grandchild))


def test_environment_is_what_was_given() -> None:
    process = start_process(
        [sys.executable, "-c", "import os, sys; sys.exit(os.environ['ANSWER'] != '42')"],
        environment=child_environment(ANSWER="42"),
    )
    assert process.wait(timeout=20) == 0
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_group_signal_to_nobody_says_so(number: signal.Signals) -> None:
    process = start_process([sys.executable, "-c", ""], environment=child_environment())
    assert process.wait(timeout=20) == 0
    assert process.stdin is not None
    process.stdin.close()
    assert signal_group(process, number) is False
