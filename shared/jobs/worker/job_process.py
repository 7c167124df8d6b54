"""One run of a job's program: started, listened to, watched, and never left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from shared.base.process import signal_group, start_process
from shared.base.settings import ENV_PREFIX, child_environment
from shared.contracts.names import LAUNCHER
from shared.jobs.worker.control import Control
from shared.jobs.worker.relay import Relay
from shared.jobs.worker.run_folder import RunFolder
from shared.jobs.worker.watchdog import Watchdog
from shared.jobs.worker.workshop import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEnd:
    """How a process ended."""

    returncode: int
    """Negative: the signal that killed it."""
    hung_after: float | None
    """Seconds of silence after which we killed it, if that is why."""
    was_killed: bool
    """Whether we killed it because a stop's grace was over."""


def run_process(
    module: str,
    folder: RunFolder,
    place: Place,
    *,
    control: Control,
    relay: Relay,
    watchdog: Watchdog,
    check: Callable[[], None],
    tick: float,
) -> ProcessEnd:
    """Run `module` on the folder's run file until it ends; relay its lines every `tick` seconds.

    `check` is called between; what it or the relay raises ends the process and is passed on.
    """
    with folder.log.open("ab") as log:
        process = start_process(
            _command(module, folder, place.processes),
            environment=_environment(place),
            output=log,
            niceness=place.niceness,
        )
    hung_after = None
    try:
        control.attach(process)
        while not _has_ended(process, tick):
            relay.pump()
            check()
            if hung_after is None and watchdog.is_hung():
                hung_after = watchdog.silence
                control.kill_hung()
        was_killed = control.given_up.is_set()
    finally:
        signal_group(process, signal.SIGKILL)  # also children that outlived their parent
        process.wait()
        control.detach()
        if process.stdin:
            process.stdin.close()
    relay.take_the_rest()
    return ProcessEnd(returncode=process.returncode, hung_after=hung_after, was_killed=was_killed)


def _command(module: str, folder: RunFolder, processes: int) -> list[str]:
    program = [module, str(folder.run_file)]
    if processes > 1:
        program = [LAUNCHER, str(processes), *program]
    return [sys.executable, "-m", *program]


def _has_ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def _environment(place: Place) -> dict[str, str]:
    """The worker's, without its settings: a program needs none, and some are secrets."""
    everything = child_environment(PYTHONUNBUFFERED="1", **place.environment)
    return {name: value for name, value in everything.items() if not name.startswith(ENV_PREFIX)}
