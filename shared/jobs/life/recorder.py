"""Writes what a job's process tells into the job's stream, in fenced batches.

Metrics go to their own table and log lines to theirs; phases, samples and notices become events.
Lines that name folders on the worker's disk (checkpoint, output, failed) are not written here:
they become facts, and events, when the supervisor has committed what they announce.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any

from sqlalchemy.orm import Session

from shared.contracts.progress import (
    LogLine,
    MetricsLine,
    NoticeLine,
    PhaseLine,
    ProgressLine,
    ProgressMessage,
    SampleLine,
)
from shared.contracts.views import EventType
from shared.db.repositories import stream
from shared.db.repositories.metrics import recent_points
from shared.db.session import database_now
from shared.db.tables import EventRow, JobRow, LogRow, MetricRow
from shared.db.values import clean_text, finite_values
from shared.jobs.life.fence import advance, lock_held

MAX_LINE_CHARS = 4000
"""Longer log lines are cut."""
SPEED = "tokens_per_second"
"""The training metric from which speed and remaining time follow."""
SPEED_POINTS = 5
"""Recent points of which the median is shown."""
NUMBERED = MetricsLine | LogLine | PhaseLine | SampleLine | NoticeLine
"""Lines that become entries of the stream."""


def record(
    session: Session, job_id: str, token: int, lines: Sequence[ProgressMessage | LogLine]
) -> None:
    """Append `lines` (20 at most, so that other writers get their turn) and update the job's row.

    Raises LeaseLostError, with nothing written, when the fence has moved on.
    """
    held = lock_held(session, job_id, token)
    now = database_now(session)
    entries = [line for line in lines if isinstance(line, NUMBERED)]
    values = _row_values(session, held, lines)
    row = advance(session, job_id, token, count=len(entries), values=values)
    batch = _Batch(row=row, now=now)
    for seq, line in enumerate(entries, start=row.seq - len(entries) + 1):
        batch.add(seq, line)
    stream.add_stream(session, events=batch.events, logs=batch.logs, metrics=batch.metrics)


@dataclass(slots=True, kw_only=True)
class _Batch:
    row: JobRow
    now: datetime
    events: list[EventRow] = field(default_factory=list)
    logs: list[LogRow] = field(default_factory=list)
    metrics: list[MetricRow] = field(default_factory=list)

    def add(self, seq: int, line: ProgressMessage | LogLine) -> None:
        if isinstance(line, MetricsLine):
            self._add_metrics(seq, line)
        elif isinstance(line, LogLine):
            text = clean_text(line.line, limit=MAX_LINE_CHARS)
            self.logs.append(
                LogRow(
                    job_id=self.row.id,
                    seq=seq,
                    attempt=self.row.attempt,
                    at=self.now,
                    line=text,
                )
            )
        else:
            self._add_event(seq, line)

    def _add_metrics(self, seq: int, line: MetricsLine) -> None:
        values = finite_values(line.values)
        self.metrics.append(
            MetricRow(
                job_id=self.row.id,
                seq=seq,
                series=line.series,
                attempt=self.row.attempt,
                step=line.step,
                tokens=line.tokens,
                at=self.now,
                values=values,
                loss=values.get("loss"),
            )
        )

    def _add_event(self, seq: int, line: ProgressMessage) -> None:
        self.events.append(
            EventRow(
                job_id=self.row.id,
                seq=seq,
                type=EventType(line.type),
                attempt=self.row.attempt,
                token=self.row.token,
                at=self.now,
                data=line.model_dump(mode="json", exclude={"type"}),
            )
        )


def _row_values(
    session: Session, held: JobRow, lines: Sequence[ProgressMessage | LogLine]
) -> dict[str, Any]:
    """The columns of the job that these lines change, the last line of a kind winning."""
    values: dict[str, Any] = {}
    for line in lines:
        if isinstance(line, PhaseLine):
            values["phase"] = clean_text(line.phase, limit=255)
        elif isinstance(line, ProgressLine):
            values |= {
                "step": line.step,
                "total_steps": line.total_steps,
                "message": clean_text(line.message),
            }
    points = [line for line in lines if isinstance(line, MetricsLine) and line.series == "train"]
    if points:
        values["step"] = max(values.get("step", 0), points[-1].step)
        values["measured"] = finite_values(points[-1].values)
        values |= _speed_values(session, held, points, values.get("total_steps", held.total_steps))
    return values


def _speed_values(
    session: Session, held: JobRow, points: Sequence[MetricsLine], total_steps: int
) -> dict[str, float]:
    """Median speed of the recent points, and the time that the remaining steps take at it."""
    speeds = [point.values[SPEED] for point in reversed(points) if SPEED in point.values]
    if len(speeds) < SPEED_POINTS:
        speeds += [
            row.values[SPEED]
            for row in recent_points(session, held.id, "train", SPEED_POINTS)
            if row.attempt == held.attempt and SPEED in row.values
        ]
    if not speeds:
        return {}
    speed = median(speeds[:SPEED_POINTS])
    newest = points[-1]
    remaining_steps = total_steps - newest.step
    if speed <= 0 or newest.step == 0 or remaining_steps < 0:
        return {SPEED: speed}
    tokens_per_step = newest.tokens / newest.step
    return {SPEED: speed, "eta_seconds": remaining_steps * tokens_per_step / speed}
