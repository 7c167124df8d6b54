"""How an HTTP service takes its port and ends: a sentence when it cannot, exit code 0 when asked.

Knows no web framework.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from types import FrameType

from shared.base.errors import StartupError
from shared.base.settings import ENV_PREFIX

BACKLOG = 2048


def listen(host: str, port: int, *, setting: str) -> socket.socket:
    """Take the port, before anything slow happens.

    Raises StartupError, naming `setting` (such as `api_port`), when it is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StartupError(
            f"Cannot listen on {host}:{port}: {reason}. Stop what uses the port, or set "
            f"{ENV_PREFIX}{setting.upper()}."
        ) from error


def exit_cleanly_on_signals() -> None:
    """Make SIGTERM and SIGINT end this process with exit code 0.

    uvicorn takes both over while it serves, drains, and then raises them again for whoever had
    them before; by default that would kill the process with the signal.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)


def _exit(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)
