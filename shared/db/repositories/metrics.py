"""Curves: all points of a series, or as many as a chart can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter

from sqlalchemy import ColumnElement, and_, func, or_, select, true
from sqlalchemy.orm import Session

from shared.db.repositories.metric_blocks import ALL_STEPS, CurvePoint, Steps, candidates
from shared.db.tables import MetricRow

LONG = 8
"""A curve is thinned from its blocks when it has so many times the points that are asked for."""


def series_of_job(session: Session, job_id: str) -> Sequence[str]:
    """Names of the series that have points, in order."""
    names: list[str] = []
    name: str | None = ""
    while name is not None:  # from one to the next by the index: DISTINCT reads every point
        later = and_(MetricRow.job_id == job_id, MetricRow.series > name)
        name = session.scalar(select(func.min(MetricRow.series)).where(later))
        if name is not None:
            names.append(name)
    return names


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
    steps: Steps = ALL_STEPS,
) -> Sequence[MetricRow]:
    """The points of a series by rising step, of those between `steps`.

    `last_steps` says, for an attempt that was continued from an earlier step, where its part of
    the curve ends. With `max_points` the steps are cut into equal intervals, of each of which the
    points of lowest and highest loss remain, and the newest point: no spike is lost. A long curve
    is thinned from its blocks: at the edge of an interval a lesser extreme may then give way to
    its neighbour.
    """
    shown = and_(
        MetricRow.job_id == job_id,
        MetricRow.series == series,
        _not_superseded(last_steps),
        _between(steps),
    )
    query = select(MetricRow).where(shown).order_by(MetricRow.step, MetricRow.attempt)
    if max_points is not None:
        points = candidates(
            session,
            job_id,
            series,
            last_steps=last_steps,
            steps=steps,
            if_more_than=LONG * max_points,
        )
        if points is None:
            # Narrow rows first: whole ones take ten times as long.
            narrow = select(MetricRow.seq, MetricRow.step, MetricRow.loss).where(shown)
            found = session.execute(narrow.order_by(MetricRow.step, MetricRow.attempt)).all()
            points = [CurvePoint(seq, step, loss or 0.0) for seq, step, loss in found]
        if len(points) > max_points:
            # By number alone: asked to sort by step too, a database walks the whole curve.
            kept = MetricRow.seq.in_(extremes(points, max_points))
            rows = session.scalars(select(MetricRow).where(MetricRow.job_id == job_id, kept))
            return sorted(rows, key=attrgetter("step", "attempt"))
    return session.scalars(query).all()


def extremes(points: Sequence[CurvePoint], max_points: int) -> set[int]:
    """Numbers of the points, given in order of steps, that a thinned curve keeps.

    At most `max_points` + 1.
    """
    first, last = points[0].step, points[-1].step
    buckets = max(1, max_points // 2)
    lowest: dict[int, tuple[float, int]] = {}
    highest: dict[int, tuple[float, int]] = {}
    for point in points:
        bucket = (point.step - first) * buckets // (last - first + 1)
        if bucket not in lowest or point.loss < lowest[bucket][0]:
            lowest[bucket] = (point.loss, point.seq)
        if bucket not in highest or point.loss > highest[bucket][0]:
            highest[bucket] = (point.loss, point.seq)
    kept = {seq for _, seq in (*lowest.values(), *highest.values())}
    return kept | {points[-1].seq}


def _not_superseded(last_steps: Mapping[int, int]) -> ColumnElement[bool]:
    if not last_steps:
        return true()
    cut = [
        and_(MetricRow.attempt == attempt, MetricRow.step <= last)
        for attempt, last in last_steps.items()
    ]
    return or_(MetricRow.attempt.not_in(list(last_steps)), *cut)


def _between(steps: Steps) -> ColumnElement[bool]:
    first, last = steps
    return and_(
        true() if first is None else MetricRow.step >= first,
        true() if last is None else MetricRow.step <= last,
    )
