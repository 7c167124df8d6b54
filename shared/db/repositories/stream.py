"""A job's stream: events, metrics and log lines under one numbering."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.contracts.views import EventType
from shared.db.inserts import insert_unless_present
from shared.db.repositories.metric_blocks import add_to_blocks
from shared.db.tables import EventRow, LogRow, MetricRow


def add_stream(
    session: Session,
    *,
    events: Collection[EventRow],
    logs: Collection[LogRow],
    metrics: Collection[MetricRow],
) -> None:
    """Append entries of one job whose numbers have been taken.

    A second point of the same series, attempt and step is dropped: a curve has one value a step.
    """
    session.add_all([*events, *logs])
    session.flush()
    if not metrics:
        return
    columns = MetricRow.__table__.columns.keys()
    values = [{name: getattr(row, name) for name in columns} for row in metrics]
    insert_unless_present(session, MetricRow, values)
    present = select(MetricRow.seq).where(
        MetricRow.job_id == values[0]["job_id"], MetricRow.seq.in_([row.seq for row in metrics])
    )
    inserted = set(session.scalars(present))
    add_to_blocks(session, [row for row in metrics if row.seq in inserted])


def read_events(
    session: Session, job_id: str, *, after: int, limit: int, only: EventType | None = None
) -> Sequence[EventRow]:
    """Up to `limit` events (of one type, if `only` says so) numbered above `after`, in order."""
    query = (
        select(EventRow)
        .where(EventRow.job_id == job_id, EventRow.seq > after)
        .order_by(EventRow.seq)
        .limit(limit)
    )
    if only is not None:
        query = query.where(EventRow.type == only)
    return session.scalars(query).all()


def read_metrics(session: Session, job_id: str, *, after: int, limit: int) -> Sequence[MetricRow]:
    """Up to `limit` metrics numbered above `after`, in order."""
    query = (
        select(MetricRow)
        .where(MetricRow.job_id == job_id, MetricRow.seq > after)
        .order_by(MetricRow.seq)
        .limit(limit)
    )
    return session.scalars(query).all()


def read_logs(session: Session, job_id: str, *, after: int, limit: int) -> Sequence[LogRow]:
    """Up to `limit` log lines numbered above `after`, in order."""
    query = (
        select(LogRow)
        .where(LogRow.job_id == job_id, LogRow.seq > after)
        .order_by(LogRow.seq)
        .limit(limit)
    )
    return session.scalars(query).all()


def events_of_type(session: Session, job_id: str, event_type: EventType) -> Sequence[EventRow]:
    """All events of one type, in order."""
    query = (
        select(EventRow)
        .where(EventRow.job_id == job_id, EventRow.type == event_type)
        .order_by(EventRow.seq)
    )
    return session.scalars(query).all()
