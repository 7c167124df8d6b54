"""What the end of a job's process means for the job. Pure."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from enum import StrEnum

from shared.contracts.names import ExitCode
from shared.jobs.program import SIGNAL_OF_STOP, Stop
from shared.jobs.worker.job_process import ProcessEnd

SHOWN_CHARS = 300


class Verdict(StrEnum):
    """Where the job goes."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"
    DRAINED = "drained"
    STALLED = "stalled"


VERDICT_OF_STOP = {
    Stop.DRAIN: Verdict.DRAINED,
    Stop.PAUSE: Verdict.PAUSED,
    Stop.CANCEL: Verdict.CANCELLED,
}
_OBEDIENT_CODES = frozenset({ExitCode.DRAINED, ExitCode.PAUSED, ExitCode.CANCELLED})
_STOP_SIGNALS = frozenset(SIGNAL_OF_STOP.values())


def judge(end: ProcessEnd, *, requested: Stop | None, has_explained: bool) -> Verdict:
    """Judge an exit by what was asked of the process; `has_explained`: it sent a `failed` line.

    A process that is asked before it has installed its handlers dies of the signal itself. One
    that finished all the same has finished. One that exits as if it had been asked, but was not,
    has crashed: otherwise it would be started again for ever.
    """
    if end.returncode == ExitCode.DONE:
        return Verdict.SUCCEEDED
    if end.returncode == ExitCode.DISK_FULL:
        return Verdict.FAILED
    if end.returncode == ExitCode.BAD_INPUT and has_explained:
        return Verdict.FAILED
    if requested is Stop.CANCEL:
        return Verdict.CANCELLED
    if requested is None or end.hung_after is not None:
        return Verdict.STALLED
    code = end.returncode
    has_obeyed = code in _OBEDIENT_CODES or -code in _STOP_SIGNALS or end.was_killed
    return VERDICT_OF_STOP[requested] if has_obeyed else Verdict.STALLED


def describe_crash(end: ProcessEnd, last_lines: Sequence[str]) -> str:
    """One sentence on how the process ended, and the last lines of its output."""
    if end.hung_after is not None:
        how = f"The process said nothing for {end.hung_after:.0f} seconds and was killed"
    elif end.returncode < 0:
        how = f"The process was killed by {signal.Signals(-end.returncode).name}"
        if -end.returncode == signal.SIGKILL:
            how += ", as the kernel does when memory runs out"
    else:
        how = f"The process ended with exit code {end.returncode}"
    if not last_lines:
        return f"{how}, without a word."
    shown = "\n".join(f"  {line[:SHOWN_CHARS]}" for line in last_lines)
    return f"{how}. Its last lines:\n{shown}"
