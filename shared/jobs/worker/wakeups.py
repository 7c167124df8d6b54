"""Hears the leader's wake-ups: a small Celery worker in a thread, whose only task rings a bell.

Losing it, or Redis, costs a poll interval: slots look at the database by themselves.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection

from celery.worker import state

from shared.base.settings import Settings
from shared.contracts.names import Queue, TaskName
from shared.jobs.queue import make_celery
from shared.jobs.timing import POLL_SECONDS

logger = logging.getLogger(__name__)

QUIET_LOGGERS = ("celery.app.trace", "celery.worker.strategy", "celery.redirected", "kombu")
STOP_SECONDS = 3.0


class WakeListener:
    """Calls `ring` for each wake-up on `queues`; from a Celery thread."""

    def __init__(
        self, settings: Settings, queues: Collection[Queue], ring: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._app = make_celery(settings, queues=queues)

        @self._app.task(name=TaskName.WAKE)  # type: ignore[untyped-decorator] # Celery has no types
        def wake(_job_id: str) -> None:
            """The id is a hint; a slot takes the best job there is."""
            ring()

        self._thread = threading.Thread(target=self._loop, name="wakeups", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        for name in QUIET_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        self._thread.start()

    def stop(self) -> None:
        """End it; a connection that hangs is left to die with the process."""
        self._stopping.set()
        state.should_stop = 0  # Celery's own flag for a warm shutdown, looked at in its loop
        self._thread.join(STOP_SECONDS)

    def _loop(self) -> None:
        """Celery reconnects for ever by itself; what ends it all the same is begun again."""
        while not self._stopping.is_set():
            try:
                self._app.WorkController(
                    app=self._app,
                    pool_cls="threads",
                    concurrency=1,
                    without_gossip=True,
                    without_mingle=True,
                    without_heartbeat=True,
                ).start()
            except Exception:
                logger.exception("The listener for wake-ups ended")
            self._stopping.wait(self._settings.seconds(POLL_SECONDS))
