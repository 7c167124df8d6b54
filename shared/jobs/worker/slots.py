"""A worker's slots: each a thread that claims jobs of its queue and sees them through, one by one.

The thread lives as long as the worker, since a job's process dies with the thread that started it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from shared.base.errors import UnavailableError
from shared.base.logs import bound_context
from shared.contracts.names import Queue
from shared.db.tables import JobRow
from shared.jobs.life.lifecycle import claim
from shared.jobs.program import Stop
from shared.jobs.timing import LEASE_SECONDS, POLL_SECONDS
from shared.jobs.worker.lane import Lane
from shared.jobs.worker.supervisor import Supervisor
from shared.jobs.worker.workshop import Place, Workshop

logger = logging.getLogger(__name__)


class Slot:
    """One job at a time of one queue."""

    def __init__(self, workshop: Workshop, lane: Lane, *, worker_id: str) -> None:
        self.queue = lane.queue
        self._workshop = workshop
        self._lane = lane
        self._worker_id = worker_id
        self._rung = threading.Event()
        self._draining = threading.Event()
        self._lock = threading.Lock()
        self._supervisor: Supervisor | None = None
        self._thread = threading.Thread(target=self._loop, name=f"slot-{self.queue}", daemon=True)
        lane.ring_when_free(self.ring)

    def start(self) -> None:
        """Begin to claim."""
        self._thread.start()

    def ring(self) -> None:
        """Look for a job now rather than at the next poll; harmless while one runs."""
        self._rung.set()

    def drain(self) -> None:
        """Claim nothing more; the running job, if any, stores a checkpoint and goes back."""
        self._draining.set()
        self._rung.set()
        with self._lock:
            if self._supervisor is not None:
                self._supervisor.control.ask(Stop.DRAIN)

    def kill(self) -> None:
        """After `drain`: do not wait for the running job's process."""
        with self._lock:
            if self._supervisor is not None:
                self._supervisor.control.kill()

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for the end after `drain`; return whether it has come."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def job_id(self) -> str | None:
        """The job that runs here."""
        supervisor = self._supervisor
        return None if supervisor is None else supervisor.job_id

    def _loop(self) -> None:
        poll_seconds = self._workshop.settings.seconds(POLL_SECONDS)
        while not self._draining.is_set():
            self._rung.clear()
            try:
                claimed = self._lane.claim(self._claim)
                if claimed is not None:
                    job, slots = claimed
                    with self._lane.occupied(slots):
                        self._see_through(job, self._lane.place(slots))
                    continue
            except UnavailableError as error:
                logger.warning("Slot %s waits: %s", self.queue, error.message)
            except Exception:
                logger.exception("Slot %s goes on after a fault", self.queue)
            self._rung.wait(poll_seconds)

    def _claim(self, free_slots: int) -> JobRow | None:
        lease_seconds = self._workshop.settings.seconds(LEASE_SECONDS)
        with self._workshop.database.transaction() as session:
            return claim(
                session,
                self.queue,
                worker_id=self._worker_id,
                lease_seconds=lease_seconds,
                free_slots=free_slots,
                all_slots=self._lane.total,
                owner_limit=self._workshop.settings.owner_running_limit,
            )

    def _see_through(self, job: JobRow, place: Place) -> None:
        bound_context.set({"job_id": job.id})
        logger.info("%s %r begins, attempt %d", job.kind, job.name, job.attempt)
        supervisor = Supervisor(self._workshop, job, place)
        with self._lock:
            self._supervisor = supervisor
            if self._draining.is_set():
                supervisor.control.ask(Stop.DRAIN)
        try:
            supervisor.run()
        finally:
            with self._lock:
                self._supervisor = None
            logger.info("%s %r has left its slot", job.kind, job.name)
            bound_context.set(None)


def make_slots(workshop: Workshop, lanes: Mapping[Queue, int], *, worker_id: str) -> list[Slot]:
    """The slots of a worker: `lanes` says how many each queue has."""
    made = [Lane(workshop.settings, queue, total) for queue, total in lanes.items()]
    return [Slot(workshop, lane, worker_id=worker_id) for lane in made for _ in range(lane.total)]
