"""The thread that keeps a job's lease and learns what its owner wants."""

from __future__ import annotations

import logging
import threading
import time
from contextvars import copy_context

from shared.base.errors import LeaseLostError, UnavailableError
from shared.base.settings import Settings
from shared.contracts.names import Desired
from shared.db.repositories.jobs import get_job
from shared.db.session import Database
from shared.jobs.life.lifecycle import heartbeat
from shared.jobs.program import Stop
from shared.jobs.timing import HEARTBEAT_SECONDS, LEASE_SECONDS, WISH_SECONDS
from shared.jobs.worker.control import Control

logger = logging.getLogger(__name__)

_STOP_OF_DESIRED = {Desired.PAUSE: Stop.PAUSE, Desired.CANCEL: Stop.CANCEL}


class Heartbeat:
    """Runs from entering its context to `stop`; acts on the job through its `Control` only."""

    def __init__(
        self, *, database: Database, job_id: str, token: int, control: Control, settings: Settings
    ) -> None:
        self._database = database
        self._job_id = job_id
        self._token = token
        self._control = control
        self._settings = settings
        self._ended = threading.Event()
        # In a copy of the context, so that its log lines carry the job's id too.
        self._thread = threading.Thread(
            target=copy_context().run, args=[self._run], name=f"heartbeat-{job_id}", daemon=True
        )

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it. Call this before the job's last write, which takes the lease away."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        interval = self._settings.seconds(HEARTBEAT_SECONDS)
        beat_due = time.monotonic() + interval
        while not self._ended.wait(self._settings.seconds(WISH_SECONDS)):
            beats = time.monotonic() >= beat_due  # by the clock: looks may be slow
            if beats:
                beat_due = time.monotonic() + interval
            try:
                desired = self._beat() if beats else self._look()
            except LeaseLostError as error:
                logger.error("%s Its process is killed.", error.message)
                self._control.lose()
                return
            except UnavailableError as error:
                # Without the database nobody can take the job either, so the work goes on.
                if beats:
                    logger.warning("No heartbeat for %s: %s", self._job_id, error.message)
                continue
            except Exception:
                logger.exception("A heartbeat of %s failed", self._job_id)
                continue
            if desired in _STOP_OF_DESIRED:
                self._control.ask(_STOP_OF_DESIRED[desired])

    def _look(self) -> Desired:
        """What the owner wants, without a write; whose job it is, the next beat will tell."""
        with self._database.reading() as session:
            return Desired(get_job(session, self._job_id).desired)

    def _beat(self) -> Desired:
        lease_seconds = self._settings.seconds(LEASE_SECONDS)
        with self._database.transaction() as session:
            return heartbeat(session, self._job_id, self._token, lease_seconds=lease_seconds)
