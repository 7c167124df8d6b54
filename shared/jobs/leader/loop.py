"""The one who sweeps: sends wake-ups, reaps expired leases, writes pointers, forgets old answers.

A thread of each API process tries to lead; a lease row in the database lets one of them. Nothing
here holds state that matters: another leader goes on from the rows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

from shared.base.errors import UnavailableError
from shared.base.settings import Settings
from shared.db.repositories import workers
from shared.db.session import Database, database_now
from shared.jobs.leader.dispatch import Wake, note_wakes, plan_wakes
from shared.jobs.leader.garbage import collect_garbage
from shared.jobs.leader.leadership import Leadership
from shared.jobs.leader.pointers import HintSender, write_dirty_pointers
from shared.jobs.life.lifecycle import reap_expired
from shared.jobs.queue import Hints, WakeSender
from shared.jobs.timing import (
    ANSWER_HOURS,
    CLEANUP_SECONDS,
    DISPATCH_SECONDS,
    GARBAGE_SECONDS,
    LEADER_LEASE_SECONDS,
    LEASE_SECONDS,
    REAP_SECONDS,
    RESEND_SECONDS,
    RETRY_FIRST_SECONDS,
    RETRY_LAST_SECONDS,
    WORKER_HOURS,
)
from shared.storage.base import ObjectStore

STOP_SECONDS = 5.0
"""The search for garbage may take so long to end; cut short, it is begun anew some time."""

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Sweep:
    """Something done every so often; after a failure ever more seldom, until it works again."""

    name: str
    action: Callable[[], None]
    every: float
    due: float = 0.0
    pause: float = 0.0


class LeaderLoop:
    """A candidate for the lead, and what it does while it leads."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        queue: WakeSender,
        settings: Settings,
        *,
        hints: HintSender | None = None,
    ) -> None:
        self._database = database
        self._store = store
        self._queue = queue
        self._settings = settings
        self._hints = hints or Hints(settings.redis_url.get_secret_value())
        self._leadership = Leadership(
            f"leader-{uuid4().hex[:12]}", lease_seconds=settings.seconds(LEADER_LEASE_SECONDS)
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="leader", daemon=True)
        self._garbage_thread = threading.Thread()
        self._sweeps = [
            self._sweep("Leading and reaping", self._lead, REAP_SECONDS),
            self._sweep("Sending wake-ups", self._dispatch, DISPATCH_SECONDS),
            self._sweep("Writing pointers", self._write_pointers, DISPATCH_SECONDS),
            self._sweep("Forgetting old rows", self._clean_up, CLEANUP_SECONDS),
            self._sweep("Collecting garbage", self._collect_garbage, GARBAGE_SECONDS),
        ]

    @property
    def leading(self) -> bool:
        """Whether this process is the leader, as far as it knows."""
        return self._leadership.held

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and hand over the lead."""
        self._stopping.set()
        if self._garbage_thread.is_alive():
            self._garbage_thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            self._thread.join()
        try:
            with self._database.transaction() as session:
                self._leadership.release(session)
        except UnavailableError as error:
            logger.warning("The lead could not be handed over and will expire: %s", error)

    def run_due_sweeps(self) -> None:
        """Do what is due now; never raises."""
        for sweep in self._sweeps:
            if time.monotonic() < sweep.due:
                continue
            try:
                sweep.action()
            except UnavailableError as error:
                self._fail(sweep, error)
                if sweep.pause == self._settings.seconds(RETRY_FIRST_SECONDS):
                    logger.warning("%s must wait: %s", sweep.name, error.message)
            except Exception as error:
                self._fail(sweep, error)
                logger.exception("%s failed and will be repeated.", sweep.name)
            else:
                if sweep.pause:
                    logger.info("%s works again.", sweep.name)
                sweep.pause = 0.0
                sweep.due = time.monotonic() + sweep.every

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self.run_due_sweeps()
            self._stopping.wait(self._settings.seconds(DISPATCH_SECONDS) / 2)

    def _sweep(self, name: str, action: Callable[[], None], every: float) -> _Sweep:
        return _Sweep(name=name, action=action, every=self._settings.seconds(every))

    def _fail(self, sweep: _Sweep, error: Exception) -> None:
        if getattr(error, "code", None) == "database":
            self._leadership.interrupt()
        first = self._settings.seconds(RETRY_FIRST_SECONDS)
        last = self._settings.seconds(RETRY_LAST_SECONDS)
        sweep.pause = min(last, 2 * sweep.pause or first)
        sweep.due = time.monotonic() + sweep.pause

    def _lead(self) -> None:
        lease_seconds = self._settings.seconds(LEASE_SECONDS)
        with self._database.transaction() as session:
            led_before = self._leadership.held
            leads = self._leadership.hold(session)
            reaped = (
                reap_expired(session, database_now(session), lease_seconds=lease_seconds)
                if leads and self._leadership.unbroken_seconds() >= lease_seconds
                else []
            )
        if leads != led_before:
            logger.info("This process %s the leader.", "is now" if leads else "is no longer")
        if reaped:
            logger.warning("Took jobs from silent workers: %s", ", ".join(reaped))

    def _dispatch(self) -> None:
        if not self.leading:
            return
        with self._database.reading() as session:
            wakes = plan_wakes(
                session,
                lease_seconds=self._settings.seconds(LEASE_SECONDS),
                resend_seconds=self._settings.seconds(RESEND_SECONDS),
                owner_limit=self._settings.owner_running_limit,
            )
        sent: list[Wake] = []
        try:
            for wake in wakes:
                self._queue.send(wake.queue, wake.job_id)
                sent.append(wake)
        finally:
            if sent:
                self._note(sent)

    def _note(self, sent: list[Wake]) -> None:
        with self._database.transaction() as session:
            if self._leadership.hold(session):
                note_wakes(session, sent)

    def _write_pointers(self) -> None:
        if self.leading:
            write_dirty_pointers(self._database, self._store, self._hints)

    def _collect_garbage(self) -> None:
        """In a thread of its own: listing a large store takes longer than the leader's lease."""
        if self.leading and not self._garbage_thread.is_alive():
            self._garbage_thread = threading.Thread(
                target=self._collect, name="garbage", daemon=True
            )
            self._garbage_thread.start()

    def _collect(self) -> None:
        try:
            with self._database.reading() as session:
                now = database_now(session)
            older_than = now - timedelta(hours=self._settings.garbage_hours)
            collect_garbage(self._database, self._store, older_than=older_than)
        except UnavailableError as error:
            logger.warning("Garbage stays until the next time: %s", error.message)
        except Exception:
            logger.exception("Garbage could not be collected")

    def _clean_up(self) -> None:
        if not self.leading:
            return
        with self._database.transaction() as session:
            if self._leadership.hold(session):
                now = database_now(session)
                workers.delete_old_answers(session, before=now - timedelta(hours=ANSWER_HOURS))
                workers.delete_silent_workers(
                    session, seen_before=now - timedelta(hours=WORKER_HOURS)
                )
