"""Processes that `up` starts: each tied to us, its output read line by line, stopped in order.

Knows nothing of what they do.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from shared.base.errors import PlatformError
from shared.base.process import signal_group, start_process

LAST_LINES = 20
POLL_SECONDS = 0.1

OnLine = Callable[[str, str], None]
"""Called with a process's name and each line it writes; from a thread of its own."""


class ChildEndedError(PlatformError):
    """A process that should run for ever has ended."""

    code = "child_ended"

    def __init__(self, name: str, how: str, last_lines: Sequence[str]) -> None:
        super().__init__(
            f"The process `{name}` ended unexpectedly ({how}); it is not restarted.",
            hint="Its last lines are above." if last_lines else "It wrote nothing.",
        )
        self.last_lines = [f"{name} | {line}" for line in last_lines]


class Child:
    """One process in its own session. Create and stop it from the same thread."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        on_line: OnLine,
    ) -> None:
        self.name = name
        self._on_line = on_line
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._process = start_process(
            [sys.executable, "-m", "shared.base.guard", *command],
            environment=environment,
            output=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read, name=f"log-{name}", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        if self._process.stdout is None:
            return
        for raw in self._process.stdout:
            line = raw.decode("utf-8", errors="replace").rstrip()
            self._last_lines.append(line)
            self._on_line(self.name, line)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status once it has ended."""
        return self._process.poll()

    def check(self) -> None:
        """Raise ChildEndedError, with its last lines, if the process has ended."""
        if self.returncode is None:
            return
        self._reader.join(1.0)
        raise ChildEndedError(self.name, _how_it_ended(self.returncode), tuple(self._last_lines))

    def wait(self) -> int:
        """Wait for the end and return the exit status."""
        status = self._process.wait()
        self._clean_up()
        return status

    def terminate(self) -> None:
        """Ask the process to end."""
        if self.returncode is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process and its group now."""
        signal_group(self._process, signal.SIGKILL)
        self.wait()

    def _clean_up(self) -> None:
        self._reader.join(1.0)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


def _how_it_ended(status: int | None) -> str:
    if status is not None and status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"


def stop_children(
    children: Sequence[Child], *, grace: float, hurry: Callable[[], bool]
) -> list[str]:
    """Terminate all, wait until they have ended, kill those left after `grace` seconds.

    `hurry` is asked all the time; once it says yes the rest is killed. Returns the names killed.
    """
    for child in children:
        child.terminate()
    deadline = time.monotonic() + grace
    while any(child.returncode is None for child in children):
        if hurry() or time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    killed = [child.name for child in children if child.returncode is None]
    for child in children:
        child.kill()  # those that ended may have left members of their group behind
    return killed
