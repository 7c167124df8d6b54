"""Processes on Linux: die with the parent, start in a session of one's own, signal a whole group.

Knows nothing of jobs; whoever starts processes that must never be orphaned uses it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1  # linux/prctl.h
_SUPPORTED = sys.platform.startswith("linux")


def die_with_parent() -> None:
    """Ask the kernel to SIGKILL this process when the THREAD that started it ends.

    The parent may have died before this call. A parent that used `start_process` holds the other
    end of this process's standard input, so a hung-up pipe there tells.
    """
    if not _SUPPORTED:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if _stdin_hung_up():
        os.kill(os.getpid(), signal.SIGKILL)


def _stdin_hung_up() -> bool:
    poll = select.poll()
    poll.register(0, select.POLLIN)
    return any(events & select.POLLHUP for _descriptor, events in poll.poll(0))


def spare_imports() -> None:
    """Take all objects there are now out of Python's search for garbage, since imports stay.

    Looking through them stops a service for 0.1 s, whenever an answer made many objects.
    """
    gc.collect()
    gc.freeze()


def start_process(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    output: int | IO[bytes] | None = None,
    cwd: Path | None = None,
    niceness: int = 0,
) -> subprocess.Popen[bytes]:
    """Start `command` in its own session and process group, stdout and stderr into `output`.

    Call it from the thread that will wait for the process: `die_with_parent` is bound to that
    thread. Standard input is a pipe that stays open as long as this process lives; close it after
    the end by `process.stdin.close()`.
    """
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        cwd=cwd,
        env=dict(environment),
        start_new_session=True,
    )
    if niceness:
        _lower_priority(process.pid, niceness)
    return process


def _lower_priority(group: int, niceness: int) -> None:
    try:
        os.setpriority(os.PRIO_PGRP, group, os.getpriority(os.PRIO_PROCESS, 0) + niceness)
    except ProcessLookupError:
        return  # it has already ended; there is nothing to slow down


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Send a signal to every process of the group `process` leads; return whether any was left.

    A group outlives its leader while it has members, so this also reaches orphaned grandchildren.
    """
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True
