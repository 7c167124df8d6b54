"""How the data programs say where they are, and how they hear that they shall stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from shared.contracts.progress import NoticeLine, PhaseLine, ProgressLine, ProgressMessage

SECONDS_BETWEEN_LINES = 1.0


class Stopped(Exception):  # noqa: N818 - an order that was followed, not an error
    """Raised out of the work at the next convenient point after a stop was asked for."""


class Watch:
    """Progress lines at most once a second, and a stop looked for at every step."""

    def __init__(
        self, send: Callable[[ProgressMessage], None], should_stop: Callable[[], bool]
    ) -> None:
        self._send = send
        self._should_stop = should_stop
        self._last_line = -math.inf

    def phase(self, name: str) -> None:
        """A new phase begins; its first step is reported at once."""
        self._send(PhaseLine(phase=name))
        self._last_line = -math.inf

    def step(self, done: int, total: int, message: str = "") -> None:
        """The work has come to `done` of `total`. Raises Stopped when it shall end here."""
        if self._should_stop():
            raise Stopped
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._send(ProgressLine(step=done, total_steps=total, message=message))

    def notice(self, message: str) -> None:
        """Tell a person something about the result."""
        self._send(NoticeLine(message=message))
