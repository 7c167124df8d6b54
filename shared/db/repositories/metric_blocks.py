"""Extremes of short stretches of a curve, kept as its points come in.

A block is a stretch of the job's numbering, so that it never changes once later numbers are given.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from sqlalchemy import func, or_, select, true
from sqlalchemy.orm import Session

from shared.db.tables import MetricBlockRow, MetricRow

BLOCK_NUMBERS = 16
"""Numbers of the stream that share a block."""

Steps = tuple[int | None, int | None]
"""First and last step of a part of a curve; None leaves that end open."""
ALL_STEPS: Steps = (None, None)


class CurvePoint(NamedTuple):
    """A point as far as thinning looks at it."""

    seq: int
    step: int
    loss: float
    """0 for a point without one."""


def add_to_blocks(session: Session, rows: Collection[MetricRow]) -> None:
    """Take points that were just inserted into their blocks."""

    def block_of(row: MetricRow) -> tuple[str, str, int, int]:
        return (row.job_id, row.series, row.attempt, row.seq // BLOCK_NUMBERS)

    for key, members in groupby(sorted(rows, key=lambda r: (*block_of(r), r.seq)), key=block_of):
        block = session.get(MetricBlockRow, key)
        for row in members:
            block = _extended(block, key, row)
        session.add(block)
    session.flush()


def _extended(
    block: MetricBlockRow | None, key: tuple[str, str, int, int], row: MetricRow
) -> MetricBlockRow:
    loss = row.loss or 0.0
    if block is None:
        job_id, series, attempt, number = key
        block = MetricBlockRow(
            job_id=job_id, series=series, attempt=attempt, block=number, points=0,
            low=loss, low_step=row.step, low_seq=row.seq,
            high=loss, high_step=row.step, high_seq=row.seq,
        )  # fmt: skip
    block.points += 1
    block.last, block.last_step, block.last_seq = loss, row.step, row.seq
    if loss < block.low:
        block.low, block.low_step, block.low_seq = loss, row.step, row.seq
    if loss > block.high:
        block.high, block.high_step, block.high_seq = loss, row.step, row.seq
    return block


def candidates(
    session: Session,
    job_id: str,
    series: str,
    *,
    last_steps: Mapping[int, int],
    steps: Steps,
    if_more_than: int,
) -> list[CurvePoint] | None:
    """The points between `steps` that can be an extreme of a thinned curve, by rising step.

    A point may be there twice. None when there are no more than about `if_more_than` points, or
    when the blocks do not tell of all of them (a worker of an earlier version wrote some): then
    the points are to be read.
    """
    blocks = _blocks(session, job_id, series, steps)
    if sum(block.points for block in blocks) <= if_more_than:
        return None
    if _ends(session, job_id, series) != _ends_of_blocks(session, job_id, series):
        return None
    found: list[CurvePoint] = []
    cut_off: set[int] = set()
    for block in blocks:
        cut = last_steps.get(block.attempt)
        if cut is None or block.last_step <= cut:
            found += (
                CurvePoint(block.low_seq, block.low_step, block.low),
                CurvePoint(block.high_seq, block.high_step, block.high),
                CurvePoint(block.last_seq, block.last_step, block.last),
            )
        elif block.attempt not in cut_off:  # the first that goes beyond the cut: a part may stay
            cut_off.add(block.attempt)
            rows = _points_of(session, job_id, series, block.attempt, block.block)
            points = (CurvePoint(row.seq, row.step, row.loss or 0.0) for row in rows)
            found += (point for point in points if point.step <= cut)
    return sorted(_within(found, steps), key=attrgetter("step"))


def _blocks(session: Session, job_id: str, series: str, steps: Steps) -> Sequence[Any]:
    """Rows of the blocks that know a point between `steps`, by attempt and number."""
    table = MetricBlockRow
    first, last = steps
    query = (
        select(
            table.attempt, table.block, table.points,
            table.low_seq, table.low_step, table.low,
            table.high_seq, table.high_step, table.high,
            table.last_seq, table.last_step, table.last,
        )
        .where(
            table.job_id == job_id,
            table.series == series,
            true() if first is None else table.last_step >= first,
            true() if last is None else or_(table.low_step <= last, table.high_step <= last),
        )
        .order_by(table.attempt, table.block)
    )  # fmt: skip
    return session.execute(query).all()


def _within(points: list[CurvePoint], steps: Steps) -> list[CurvePoint]:
    if steps == ALL_STEPS:
        return points
    first, last = steps
    return [
        point
        for point in points
        if (first is None or point.step >= first) and (last is None or point.step <= last)
    ]


def _ends_of_blocks(session: Session, job_id: str, series: str) -> tuple[int, int] | None:
    """The first block and the number of the last point that the blocks know."""
    table = MetricBlockRow
    query = select(func.min(table.block), func.max(table.last_seq))
    first, last = session.execute(query.where(table.job_id == job_id, table.series == series)).one()
    return None if first is None else (first, last)


def _ends(session: Session, job_id: str, series: str) -> tuple[int, int] | None:
    """Block of the first point and number of the last one."""
    query = select(MetricRow.seq).where(MetricRow.job_id == job_id, MetricRow.series == series)
    first = session.scalar(query.order_by(MetricRow.seq).limit(1))
    last = session.scalar(query.order_by(MetricRow.seq.desc()).limit(1))
    return None if first is None or last is None else (first // BLOCK_NUMBERS, last)


def _points_of(
    session: Session, job_id: str, series: str, attempt: int, block: int
) -> Sequence[MetricRow]:
    first = block * BLOCK_NUMBERS
    query = select(MetricRow).where(
        MetricRow.job_id == job_id,
        MetricRow.series == series,
        MetricRow.attempt == attempt,
        MetricRow.seq.between(first, first + BLOCK_NUMBERS - 1),
    )
    return session.scalars(query).all()
