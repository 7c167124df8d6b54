"""A worker process: slots, wake-ups, signs of life, and a stop that loses nothing.

SIGTERM or SIGINT drains: no new claims, every job stores a checkpoint and goes back to the queue.
A second one does not wait for the jobs' processes.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Mapping
from functools import partial
from types import FrameType

from shared.base.errors import PlatformError
from shared.base.settings import Settings
from shared.contracts.names import PROGRAM_OF_KIND, HintChannel, JobKind, Queue
from shared.db.session import Database
from shared.jobs.life.presence import worker_gone, worker_heartbeat
from shared.jobs.queue import Hints
from shared.jobs.reading.report import render_report
from shared.jobs.timing import ALIVE_SECONDS, HEARTBEAT_SECONDS
from shared.jobs.worker.cache import InputCache
from shared.jobs.worker.run_folder import remove_dead_runs
from shared.jobs.worker.slots import Slot, make_slots
from shared.jobs.worker.wakeups import WakeListener
from shared.jobs.worker.workshop import Workshop
from shared.storage.factory import open_store

logger = logging.getLogger(__name__)

SIGNAL_TICK_SECONDS = 0.1
DRAIN_TICK_SECONDS = 0.05


class Worker:
    """One process with slots for some queues."""

    def __init__(
        self,
        settings: Settings,
        *,
        name: str,
        lanes: Mapping[Queue, int],
        programs: Mapping[JobKind, str] = PROGRAM_OF_KIND,
    ) -> None:
        self.id = f"{name}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._settings = settings
        self._lanes = {queue: count for queue, count in lanes.items() if count}
        self._database = Database(settings.resolved_database_url)
        self._hints = Hints(settings.redis_url.get_secret_value())
        self._alive_file = settings.data_dir / "run" / f"{name}.alive"
        self._cache = InputCache(settings.data_dir / "cache", max_bytes=settings.cache_bytes)
        workshop = Workshop(
            settings=settings,
            database=self._database,
            store=open_store(settings),
            cache=self._cache,
            changed=partial(self._hints.publish, HintChannel.EVENTS),
            render_report=render_report,
            programs=programs,
        )
        self._slots = make_slots(workshop, self._lanes, worker_id=self.id)
        self._wakeups = WakeListener(settings, tuple(self._lanes), self._ring)
        self._stop_signals = 0

    def run(self) -> int:
        """Work until a signal says stop; return the exit code. For the main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        logger.info("Worker %s: %s", self.id, _describe(self._lanes))
        self._clear_up()
        for slot in self._slots:
            slot.start()
        self._wakeups.start()
        try:
            self._stay_alive()
        finally:
            self._drain()
        return 0

    def _clear_up(self) -> None:
        """What workers that were killed here have left takes room for nothing."""
        try:
            self._cache.remove_leftovers()
            remove_dead_runs(self._database, self._settings.data_dir)
        except PlatformError as error:
            logger.warning("Leftovers of dead workers stay for now: %s", error.message)

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_signals += 1  # and no more: a handler that takes a lock can wait for itself

    def _ring(self) -> None:
        for slot in self._slots:
            slot.ring()

    def _stay_alive(self) -> None:
        next_touch = next_heartbeat = time.monotonic()
        while not self._stop_signals:
            now = time.monotonic()
            if now >= next_touch:
                next_touch = now + self._settings.seconds(ALIVE_SECONDS)
                self._touch()
            if now >= next_heartbeat:
                next_heartbeat = now + self._settings.seconds(HEARTBEAT_SECONDS)
                self._show_presence()
            time.sleep(SIGNAL_TICK_SECONDS)

    def _touch(self) -> None:
        """For a liveness probe: this file is young as long as the worker lives."""
        try:
            self._alive_file.parent.mkdir(parents=True, exist_ok=True)
            self._alive_file.touch()
        except OSError as error:
            logger.warning("No sign of life at %s: %s", self._alive_file, error)

    def _show_presence(self) -> None:
        running = [slot.job_id for slot in self._slots if slot.job_id]
        try:
            with self._database.transaction() as session:
                worker_heartbeat(session, self.id, slots=self._lanes, running=running)
        except PlatformError as error:
            logger.warning("No sign of life in the database: %s", error.message)
        except Exception:
            logger.exception("No sign of life in the database")

    def _drain(self) -> None:
        logger.info("Worker %s drains", self.id)
        for slot in self._slots:
            slot.drain()
        has_killed = False
        while waiting := [slot for slot in self._slots if not slot.wait(DRAIN_TICK_SECONDS)]:
            self._touch()
            if self._stop_signals > 1 and not has_killed:
                has_killed = True
                self._kill(waiting)
        self._wakeups.stop()
        self._leave()

    def _kill(self, slots: list[Slot]) -> None:
        logger.warning("A second signal: the jobs' processes are killed")
        for slot in slots:
            slot.kill()

    def _leave(self) -> None:
        try:
            with self._database.transaction() as session:
                worker_gone(session, self.id)
        except PlatformError as error:
            logger.warning("The worker's row stays behind: %s", error.message)
        self._alive_file.unlink(missing_ok=True)
        self._hints.close()
        self._database.close()


def _describe(lanes: Mapping[Queue, int]) -> str:
    return ", ".join(f"{count} x {queue}" for queue, count in lanes.items())
