"""Checkpoints between the process that wrote them and the store: two at most, newest first kept.

Training never waits for the network. Knows neither store nor database: what uploading means is
passed in.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextvars import copy_context

from shared.contracts.progress import CheckpointLine

logger = logging.getLogger(__name__)

CAPACITY = 2
"""Checkpoints held, the one under way included."""


class Spool:
    """A queue of finished checkpoints and the thread that uploads them in order."""

    def __init__(
        self,
        *,
        upload: Callable[[CheckpointLine], None],
        replaced: Callable[[CheckpointLine], None],
    ) -> None:
        self._upload = upload
        self._replaced = replaced
        self._changed = threading.Condition()
        self._waiting: deque[CheckpointLine] = deque()
        self._under_way = 0
        self._closing = False
        self.failure: Exception | None = None
        """Why an upload failed for good; none is tried after it."""
        self._thread: threading.Thread | None = None

    def offer(self, line: CheckpointLine) -> None:
        """Take a checkpoint. When full, it replaces the oldest unstarted one that is not final."""
        with self._changed:
            if self.failure is not None:
                return
            if self._thread is None:
                # In a copy of the context, so that its log lines carry the job's id too.
                self._thread = threading.Thread(
                    target=copy_context().run, args=[self._work], name="spool", daemon=True
                )
                self._thread.start()
            self._waiting.append(line)
            victims = [item for item in list(self._waiting)[:-1] if not item.meta.final]
            is_over = self._under_way + len(self._waiting) > CAPACITY
            victim = victims[0] if is_over and victims else None
            if victim is not None:
                self._waiting.remove(victim)
            self._changed.notify_all()
        if victim is not None:
            self._replaced(victim)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        with self._changed:
            return not self._waiting and not self._under_way

    def close(self) -> None:
        """Let the thread end after what it has; see `wait`."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for the end of what was offered before `close`; say if it came."""
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (line := self._next()) is not None:
            try:
                self._upload(line)
            except Exception as error:  # a thread's boundary; its owner looks at `failure`
                logger.debug("The upload of step %s failed", line.meta.step, exc_info=True)
                with self._changed:
                    self.failure = error
                    self._waiting.clear()
            with self._changed:
                self._under_way = 0
                self._changed.notify_all()

    def _next(self) -> CheckpointLine | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return None
            self._under_way = 1
            return self._waiting.popleft()
