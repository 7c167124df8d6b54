"""Extremes of short stretches of a curve, kept as its points come in.

A block is a stretch of the job's numbering, so that it never changes once later numbers are given.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.db.tables import MetricBlockRow, MetricRow

BLOCK_NUMBERS = 16
"""Numbers of the stream that share a block."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
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
    if_more_than: int,
) -> list[CurvePoint] | None:
    """The points that can be an extreme of a thinned curve, by rising step.

    None when the curve has no more than `if_more_than` points, or when its blocks do not tell of
    all of them (a worker of an earlier version wrote some): then its points are to be read.
    """
    table = MetricBlockRow
    query = (
        select(
            table.attempt, table.block, table.points,
            table.low_seq, table.low_step, table.low,
            table.high_seq, table.high_step, table.high,
            table.last_seq, table.last_step, table.last,
        )
        .where(table.job_id == job_id, table.series == series)
        .order_by(table.attempt, table.block)
    )  # fmt: skip
    blocks = session.execute(query).all()
    if sum(block.points for block in blocks) <= if_more_than:
        return None
    if _ends(session, job_id, series) != (blocks[0].block, max(b.last_seq for b in blocks)):
        return None
    found: dict[int, tuple[int, int, float]] = {}  # by number: step, attempt, loss
    cut_off: set[int] = set()
    for block in blocks:
        cut = last_steps.get(block.attempt)
        if cut is None or block.last_step <= cut:
            found[block.low_seq] = (block.low_step, block.attempt, block.low)
            found[block.high_seq] = (block.high_step, block.attempt, block.high)
            found[block.last_seq] = (block.last_step, block.attempt, block.last)
        elif block.attempt not in cut_off:  # the first that goes beyond the cut: a part may stay
            cut_off.add(block.attempt)
            for row in _points_of(session, job_id, series, block.attempt, block.block):
                if row.step <= cut:
                    found[row.seq] = (row.step, block.attempt, row.loss or 0.0)
    ordered = sorted((step, attempt, seq, loss) for seq, (step, attempt, loss) in found.items())
    return [CurvePoint(seq, step, loss) for step, _attempt, seq, loss in ordered]


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
