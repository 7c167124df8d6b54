"""Curves: all points of a series, or as many as a chart can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import BigInteger, ColumnElement, Select, and_, cast, func, or_, select, true
from sqlalchemy.orm import Session

from shared.db.tables import MetricRow

CHART_VALUE = "loss"
"""The value whose extremes a thinned curve keeps."""


def series_of_job(session: Session, job_id: str) -> Sequence[str]:
    """Names of the series that have points."""
    query = select(MetricRow.series).where(MetricRow.job_id == job_id).distinct()
    return sorted(session.scalars(query))


def recent_points(session: Session, job_id: str, series: str, limit: int) -> Sequence[MetricRow]:
    """The newest points of a series, newest first."""
    query = (
        select(MetricRow)
        .where(MetricRow.job_id == job_id, MetricRow.series == series)
        .order_by(MetricRow.seq.desc())
        .limit(limit)
    )
    return session.scalars(query).all()


def curve(
    session: Session,
    job_id: str,
    series: str,
    *,
    last_steps: Mapping[int, int],
    max_points: int | None,
) -> Sequence[MetricRow]:
    """The points of a series by rising step.

    `last_steps` says, for an attempt that was continued from an earlier step, where its part of
    the curve ends. With `max_points` the steps are cut into equal intervals, of each of which the
    points of lowest and highest loss remain: no spike is lost, whatever the zoom.
    """
    shown = and_(
        MetricRow.job_id == job_id, MetricRow.series == series, _not_superseded(last_steps)
    )
    query = select(MetricRow).where(shown).order_by(MetricRow.step, MetricRow.attempt)
    if max_points is not None:
        low, high, count = session.execute(
            select(func.min(MetricRow.step), func.max(MetricRow.step), func.count()).where(shown)
        ).one()
        if count > max_points:
            buckets = max(1, max_points // 2)
            query = query.where(MetricRow.seq.in_(_extremes(shown, low, high, buckets)))
    return session.scalars(query).all()


def _not_superseded(last_steps: Mapping[int, int]) -> ColumnElement[bool]:
    if not last_steps:
        return true()
    cut = [
        and_(MetricRow.attempt == attempt, MetricRow.step <= last)
        for attempt, last in last_steps.items()
    ]
    return or_(MetricRow.attempt.not_in(list(last_steps)), *cut)


def _extremes(shown: ColumnElement[bool], low: int, high: int, buckets: int) -> Select[int]:
    """Numbers of the points of lowest and highest loss in each of `buckets` intervals of steps."""
    steps = cast(MetricRow.step - low, BigInteger)  # the product below outgrows 32 bits
    loss = MetricRow.values[CHART_VALUE].as_float()
    points = (
        select(
            MetricRow.seq, (steps * buckets // (high - low + 1)).label("bucket"), loss.label("loss")
        )
        .where(shown)
        .subquery()
    )
    columns = points.c
    rising = func.row_number().over(
        partition_by=columns.bucket, order_by=(columns.loss, columns.seq)
    )
    falling = func.row_number().over(
        partition_by=columns.bucket, order_by=(columns.loss.desc(), columns.seq)
    )
    ranked = select(columns.seq, rising.label("lowest"), falling.label("highest")).subquery()
    return select(ranked.c.seq).where(or_(ranked.c.lowest == 1, ranked.c.highest == 1))
