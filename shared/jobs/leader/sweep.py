"""Something done every so often in a thread of its own, whatever becomes of everything else.

Knows nothing of what it does: a server that is away, or silent, must not delay what needs another.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from shared.base.errors import UnavailableError

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Sweep:
    """After a failure it is done ever more seldom, until it works again. All times in seconds."""

    name: str
    action: Callable[[], None]
    failed: Callable[[Exception], None]
    """Told of each failure, which is logged already."""
    every: float
    first_pause: float
    last_pause: float
    delay: float = 0.0
    """Before the first time."""
    _pause: float = 0.0
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, and repeat until `stop`."""
        self._thread = threading.Thread(target=self._loop, name=self.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Do it no more; return at once."""
        self._stopping.set()

    def join(self, seconds: float) -> None:
        """After `stop`: wait for what is under way, so long at most."""
        if self._thread is not None:
            self._thread.join(seconds)

    def once(self) -> float:
        """Do it in this thread and return the pause until the next time; never raises."""
        try:
            self.action()
        except Exception as error:
            if not isinstance(error, UnavailableError):
                logger.exception("%s failed and will be repeated.", self.name)
            elif not self._pause:
                logger.warning("%s must wait: %s", self.name, error.message)
            self._pause = min(self.last_pause, 2 * self._pause or self.first_pause)
            self.failed(error)
            return self._pause
        if self._pause:
            logger.info("%s works again.", self.name)
        self._pause = 0.0
        return self.every

    def _loop(self) -> None:
        due = time.monotonic() + self.delay
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            due = time.monotonic() + self.once()
