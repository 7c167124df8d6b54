"""A worker's sign of life, from which the leader knows the free slots and users who is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from shared.contracts.names import Queue
from shared.db.repositories import jobs, workers
from shared.db.session import database_now
from shared.db.tables import WorkerRow


def worker_heartbeat(
    session: Session, worker_id: str, *, slots: Mapping[Queue, int], running: Sequence[str]
) -> None:
    """Note that a worker is alive, how many slots each of its queues has and what it runs."""
    row = WorkerRow(
        id=worker_id,
        slots={str(queue): count for queue, count in slots.items()},
        running=list(running),
        heartbeat_at=database_now(session),
    )
    workers.save_worker(session, row)


def worker_gone(session: Session, worker_id: str) -> None:
    """Forget a worker that stops in good order."""
    workers.delete_worker(session, worker_id)


def free_slots(session: Session, now: datetime, *, lease_seconds: float) -> dict[Queue, int]:
    """Slots of living workers that no job occupies, by queue."""
    seen_since = now - timedelta(seconds=lease_seconds)
    slots = dict.fromkeys(Queue, 0)
    for row in workers.list_workers(session, seen_since=seen_since):
        for queue, count in row.slots.items():
            slots[Queue(queue)] += count
    occupied = jobs.occupied_slots(session)
    return {queue: max(0, count - occupied.get(queue, 0)) for queue, count in slots.items()}
