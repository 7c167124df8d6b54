"""How far the streams of watched jobs are, and what is new in one."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import attrgetter

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.contracts.names import JobState
from shared.contracts.views import EventType
from shared.db.repositories.stream import read_events, read_logs, read_metrics
from shared.db.tables import EventRow, JobRow, LogRow, MetricRow

StreamRow = EventRow | MetricRow | LogRow


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamHead:
    """Where a job's stream ends at the moment."""

    seq: int
    """Number of the newest entry."""
    state: JobState
    """A terminal one says that nothing follows."""


def stream_heads(session: Session, job_ids: Collection[str]) -> dict[str, StreamHead]:
    """By job id; jobs that do not exist are left out."""
    query = select(JobRow.id, JobRow.seq, JobRow.state).where(JobRow.id.in_(job_ids))
    return {
        job_id: StreamHead(seq=seq, state=state) for job_id, seq, state in session.execute(query)
    }


def read_stream(
    session: Session,
    job_id: str,
    *,
    after: int,
    limit: int,
    only: EventType | None = None,
) -> list[StreamRow]:
    """Up to `limit` events, metrics and log lines numbered above `after`, in order.

    `only` leaves out every other type.

    Numbers can be left out: a metric that repeats a step of its attempt takes one and is dropped.
    """
    found: list[Sequence[StreamRow]] = [
        read(session, job_id, after=after, limit=limit) for read in _readers(only)
    ]
    merged: Iterator[StreamRow] = heapq.merge(*found, key=attrgetter("seq"))
    return list(islice(merged, limit))


def _readers(only: EventType | None) -> Sequence[Callable[..., Sequence[StreamRow]]]:
    """What to read for a stream of all types, or of one."""
    if only is None:
        return (read_events, read_metrics, read_logs)
    if only is EventType.METRICS:
        return (read_metrics,)
    if only is EventType.LOG:
        return (read_logs,)
    return (partial(read_events, only=only),)
