"""The skeleton of every job's process: run file in, JSON lines and folders out, signals, exit code.

Knows no database, no object store, no settings and no Celery; a program only needs a run folder.
"""

from __future__ import annotations

import errno
import faulthandler
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import NoReturn

from shared.base.errors import InvalidInputError, JobFailedError, PlatformError
from shared.base.files import fsync_file, fsync_folder
from shared.base.logs import bound_context, configure_logging
from shared.base.process import die_with_parent
from shared.contracts.names import ExitCode, FailureCode
from shared.contracts.progress import FailedLine, MetricsLine, NoticeLine, ProgressMessage
from shared.contracts.run_file import RunFile

logger = logging.getLogger(__name__)


class Stop(StrEnum):
    """Why a program shall end early. A later member overrides an earlier one."""

    DRAIN = "drain"
    """The worker goes down: finish the step, write a checkpoint, exit."""
    PAUSE = "pause"
    """The owner wants to go on later: the same."""
    CANCEL = "cancel"
    """The owner has no more use for it: drop the step, exit."""

    @property
    def exit_code(self) -> ExitCode:
        """What to exit with after obeying."""
        return _EXIT_CODE_OF_STOP[self]


_EXIT_CODE_OF_STOP = {
    Stop.DRAIN: ExitCode.DRAINED,
    Stop.PAUSE: ExitCode.PAUSED,
    Stop.CANCEL: ExitCode.CANCELLED,
}
SIGNAL_OF_STOP = {
    Stop.DRAIN: signal.SIGTERM,
    Stop.PAUSE: signal.SIGUSR1,
    Stop.CANCEL: signal.SIGUSR2,
}
"""How the supervisor says it."""


class Reporter:
    """Appends lines to the events file, each by one write; any thread may send."""

    def __init__(self, path: Path) -> None:
        # Append mode: a line goes to the end whoever else writes, and never over another one.
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._lock = threading.Lock()

    def send(self, line: ProgressMessage) -> None:
        """Append one line. Non-finite metrics are taken out and reported by a notice instead.

        Raises OSError when the disk does not take the whole line.
        """
        if isinstance(line, MetricsLine):
            line = self._only_finite(line)
        content = line.model_dump_json().encode() + b"\n"
        with self._lock:
            written = os.write(self._descriptor, content)
        if written != len(content):
            raise OSError(errno.ENOSPC, "an event line was cut short: is the disk full?")

    def _only_finite(self, line: MetricsLine) -> MetricsLine:
        odd = {name: value for name, value in line.values.items() if not math.isfinite(value)}
        if not odd:
            return line
        listed = ", ".join(f"{name} is {value}" for name, value in odd.items())
        message = f"At step {line.step} ({line.series}): {listed}; left out of the curve."
        self.send(NoticeLine(level="warning", message=message))
        finite = {name: value for name, value in line.values.items() if name not in odd}
        return line.model_copy(update={"values": finite})


class StopSignal:
    """Remembers what the three stop signals asked for; the program looks when it suits it."""

    def __init__(self) -> None:
        self.requested: Stop | None = None
        """The strongest wish so far."""
        self._stop_of_signal = {number: stop for stop, number in SIGNAL_OF_STOP.items()}
        for number in self._stop_of_signal:
            signal.signal(number, self._remember)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        asked = self._stop_of_signal[signal.Signals(number)]
        order = list(Stop)
        if self.requested is None or order.index(asked) > order.index(self.requested):
            self.requested = asked


def run_program(main: Callable[[RunFile, Reporter, StopSignal], ExitCode]) -> NoReturn:
    """Run `main` for the run file named by the one argument, and exit with its code.

    A JobFailedError or InvalidInputError becomes a `failed` line and `ExitCode.BAD_INPUT`, a full
    disk likewise (`ExitCode.DISK_FULL` where that line has no room either); every other exception
    ends the process with a traceback and counts as a stall.
    """
    die_with_parent()
    faulthandler.enable()
    stop = StopSignal()
    configure_logging(log_format="text")
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m {_module_name()} RUN_FILE")
    run = RunFile.model_validate_json(Path(sys.argv[1]).read_bytes())
    bound_context.set({"job_id": run.job_id})
    reporter = Reporter(run.events)
    try:
        code = _explained(lambda: main(run, reporter, stop), reporter)
    except OSError as error:
        if not _is_full(error):
            raise
        code = ExitCode.DISK_FULL
    sys.exit(int(code))


def _explained(work: Callable[[], ExitCode], reporter: Reporter) -> ExitCode:
    try:
        return work()
    except (JobFailedError, InvalidInputError) as error:
        _report_failure(reporter, error)
    except OSError as error:
        if not _is_full(error):
            raise
        logger.exception("The disk is full")
        _report_failure(reporter, _disk_full(error))
    return ExitCode.BAD_INPUT


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _module_name() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else sys.argv[0]


def _report_failure(reporter: Reporter, error: PlatformError) -> None:
    known = error.code in set(FailureCode)
    code = FailureCode(error.code) if known else FailureCode.BAD_DATA
    reporter.send(FailedLine(code=code, message=error.message, hint=error.hint))


def _disk_full(error: OSError) -> JobFailedError:
    where = f" while writing {error.filename}" if error.filename else ""
    return JobFailedError(
        f"The worker's disk is full{where}.",
        code=FailureCode.STORAGE_FULL,
        hint="Free some space in the data folder, then retry the job.",
    )


def publish_folder(temporary: Path, final: Path) -> None:
    """Make every file and folder below `temporary` durable, then rename it to `final`.

    A supervisor that sees `final` sees all of it. Raises FileExistsError if `final` is there.
    """
    if final.exists():
        raise FileExistsError(errno.EEXIST, "the folder has been published before", str(final))
    for path in sorted(temporary.rglob("*"), reverse=True):
        if path.is_dir():
            fsync_folder(path)
        else:
            fsync_file(path)
    fsync_folder(temporary)
    temporary.rename(final)
    fsync_folder(final.parent)
