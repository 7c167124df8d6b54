"""What an exit means depends on what was asked."""

from __future__ import annotations

import signal

import pytest

from shared.contracts.names import ExitCode
from shared.jobs.program import Stop
from shared.jobs.worker.job_process import ProcessEnd
from shared.jobs.worker.verdict import Verdict, describe_crash, judge


def end(
    returncode: int, *, hung_after: float | None = None, was_killed: bool = False
) -> ProcessEnd:
    return ProcessEnd(returncode=returncode, hung_after=hung_after, was_killed=was_killed)


@pytest.mark.parametrize(
    ("returncode", "requested", "verdict"),
    [
        (ExitCode.DONE, None, Verdict.SUCCEEDED),
        (ExitCode.DONE, Stop.CANCEL, Verdict.SUCCEEDED),
        (ExitCode.DRAINED, Stop.DRAIN, Verdict.DRAINED),
        (ExitCode.PAUSED, Stop.PAUSE, Verdict.PAUSED),
        (ExitCode.DRAINED, Stop.PAUSE, Verdict.PAUSED),
        (ExitCode.CANCELLED, Stop.CANCEL, Verdict.CANCELLED),
        (-signal.SIGTERM, Stop.DRAIN, Verdict.DRAINED),
        (-signal.SIGUSR1, Stop.PAUSE, Verdict.PAUSED),
        (-signal.SIGSEGV, Stop.CANCEL, Verdict.CANCELLED),
        (-signal.SIGKILL, Stop.DRAIN, Verdict.STALLED),
        (1, Stop.PAUSE, Verdict.STALLED),
        (1, None, Verdict.STALLED),
        (ExitCode.DRAINED, None, Verdict.STALLED),
        (ExitCode.CANCELLED, None, Verdict.STALLED),
        (-signal.SIGTERM, None, Verdict.STALLED),
        (ExitCode.BAD_INPUT, None, Verdict.STALLED),
        (ExitCode.DISK_FULL, None, Verdict.FAILED),
        (ExitCode.DISK_FULL, Stop.DRAIN, Verdict.FAILED),
    ],
)
def test_exit_is_judged_by_what_was_asked(
    returncode: int, requested: Stop | None, verdict: Verdict
) -> None:
    assert judge(end(returncode), requested=requested, has_explained=False) is verdict


def test_explained_failure_is_final() -> None:
    bad_input = end(ExitCode.BAD_INPUT)
    assert judge(bad_input, requested=None, has_explained=True) is Verdict.FAILED
    assert judge(end(1), requested=None, has_explained=True) is Verdict.STALLED


def test_kill_after_a_grace_is_the_stop_that_was_asked_for() -> None:
    killed = end(-signal.SIGKILL, was_killed=True)
    assert judge(killed, requested=Stop.DRAIN, has_explained=False) is Verdict.DRAINED
    assert judge(killed, requested=Stop.PAUSE, has_explained=False) is Verdict.PAUSED


def test_hung_process_is_a_stall_unless_it_was_cancelled() -> None:
    hung = end(-signal.SIGABRT, hung_after=130.0)
    assert judge(hung, requested=None, has_explained=False) is Verdict.STALLED
    assert judge(hung, requested=Stop.PAUSE, has_explained=False) is Verdict.STALLED
    assert judge(hung, requested=Stop.CANCEL, has_explained=False) is Verdict.CANCELLED


def test_crash_is_described_with_the_last_words() -> None:
    assert describe_crash(end(3), []) == "The process ended with exit code 3, without a word."
    assert describe_crash(end(-signal.SIGSEGV), ["a", "b" * 999]) == (
        "The process was killed by SIGSEGV. Its last lines:\n  a\n  " + "b" * 300
    )
    assert describe_crash(end(-6, hung_after=129.6), ["x"]) == (
        "The process said nothing for 130 seconds and was killed. Its last lines:\n  x"
    )
