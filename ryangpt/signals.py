"""Stop signals as a program that must tidy up wants them: counted, raised only where allowed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopRequests:
    """Counts stop signals while entered; raises KeyboardInterrupt only inside `interruptible()`."""

    def __init__(self) -> None:
        self.count = 0
        """Signals so far."""
        self._interruptible = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequests:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a signal raise KeyboardInterrupt inside; one that came before raises at once."""
        self._interruptible = True
        try:
            if self.count:
                raise KeyboardInterrupt
            yield
        finally:
            self._interruptible = False

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self._interruptible:
            self._interruptible = False
            raise KeyboardInterrupt
