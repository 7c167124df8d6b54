"""The one who sweeps: sends wake-ups, reaps expired leases, writes pointers, forgets old answers.

Threads of each API process try to lead; a lease row in the database lets one process. Nothing here
holds state that matters: another leader goes on from the rows. Each sweep has a thread of its own:
a store or a Redis that is silent must not keep anybody from finding dead workers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

from shared.base.errors import UnavailableError
from shared.base.settings import Settings
from shared.db.repositories import workers
from shared.db.session import Database, database_now
from shared.db.stuck import end_stuck_transactions
from shared.jobs.leader.dispatch import Wake, note_wakes, plan_wakes
from shared.jobs.leader.garbage import collect_garbage
from shared.jobs.leader.leadership import Leadership
from shared.jobs.leader.pointers import HintSender, write_dirty_pointers
from shared.jobs.leader.sweep import Sweep
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
"""What is under way may take so long to end; what is cut short is begun anew some time."""

logger = logging.getLogger(__name__)


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
        # What is seldom done waits until a former leader's lease must have ended.
        heir = settings.seconds(LEADER_LEASE_SECONDS + REAP_SECONDS)
        self._sweeps = [
            self._sweep("Leading and reaping", self._lead, REAP_SECONDS),
            self._sweep("Ending stuck transactions", self._end_stuck, REAP_SECONDS),
            self._sweep("Sending wake-ups", self._dispatch, DISPATCH_SECONDS),
            self._sweep("Writing pointers", self._write_pointers, DISPATCH_SECONDS),
            self._sweep("Forgetting old rows", self._clean_up, CLEANUP_SECONDS, delay=heir),
            self._sweep("Collecting garbage", self._collect_garbage, GARBAGE_SECONDS, delay=heir),
        ]

    @property
    def leading(self) -> bool:
        """Whether this process is the leader, as far as it knows."""
        return self._leadership.held

    def start(self) -> None:
        """Start the threads."""
        for sweep in self._sweeps:
            sweep.start()

    def stop(self) -> None:
        """End the threads and hand over the lead."""
        for sweep in self._sweeps:
            sweep.stop()
        deadline = time.monotonic() + STOP_SECONDS
        for sweep in self._sweeps:
            sweep.join(max(0.0, deadline - time.monotonic()))
        try:
            with self._database.transaction() as session:
                self._leadership.release(session)
        except UnavailableError as error:
            logger.warning("The lead could not be handed over and will expire: %s", error)

    def sweep_once(self) -> None:
        """Do everything once, in this thread; never raises."""
        for sweep in self._sweeps:
            sweep.once()

    def _sweep(
        self, name: str, action: Callable[[], None], every: float, *, delay: float = 0.0
    ) -> Sweep:
        return Sweep(
            name=name,
            action=action,
            delay=delay,
            failed=self._note_outage,
            every=self._settings.seconds(every),
            first_pause=self._settings.seconds(RETRY_FIRST_SECONDS),
            last_pause=self._settings.seconds(RETRY_LAST_SECONDS),
        )

    def _note_outage(self, error: Exception) -> None:
        if getattr(error, "code", None) == "database":
            self._leadership.interrupt()

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

    def _end_stuck(self) -> None:
        """Whoever leads: a silent leader may have locked the row that `_lead` waits for."""
        with self._database.reading() as session:
            ended = end_stuck_transactions(session)
        if ended:
            logger.warning("Ended %d transactions of processes that went silent.", ended)

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
            if self._leadership.confirm(session):
                note_wakes(session, sent)

    def _write_pointers(self) -> None:
        if self.leading:
            write_dirty_pointers(self._database, self._store, self._hints)

    def _collect_garbage(self) -> None:
        if not self.leading:
            return
        with self._database.reading() as session:
            now = database_now(session)
        older_than = now - timedelta(hours=self._settings.garbage_hours)
        collect_garbage(self._database, self._store, older_than=older_than)

    def _clean_up(self) -> None:
        if not self.leading:
            return
        with self._database.transaction() as session:
            if self._leadership.confirm(session):
                now = database_now(session)
                workers.delete_old_answers(session, before=now - timedelta(hours=ANSWER_HOURS))
                workers.delete_silent_workers(
                    session, seen_before=now - timedelta(hours=WORKER_HOURS)
                )
