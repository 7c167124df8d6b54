"""What a process tells, in the tables and on the job's row."""

from __future__ import annotations

import pytest
from sqlalchemy import delete
from sqlalchemy.orm import Session

from shared.contracts.progress import (
    LogLine,
    MetricsLine,
    NoticeLine,
    PhaseLine,
    ProgressLine,
    SampleLine,
)
from shared.db.repositories import metrics
from shared.db.repositories.jobs import get_job
from shared.db.repositories.stream import read_events, read_logs, read_metrics
from shared.db.session import Database
from shared.db.tables import MetricBlockRow
from shared.jobs.life import lifecycle
from shared.jobs.life.recorder import MAX_LINE_CHARS, record
from shared.jobs.reading.listings import read_curves, read_stream
from tests.support.rows import claim_job, commit, running_training


def train(step: int, *, loss: float = 1.0, speed: float | None = None) -> MetricsLine:
    values = {"loss": loss} if speed is None else {"loss": loss, "tokens_per_second": speed}
    return MetricsLine(series="train", step=step, tokens=step * 100, values=values)


def losses(session: Session, job_id: str, **options: object) -> list[tuple[int, float]]:
    """The training curve as (step, loss)."""
    curves = read_curves(session, job_id, **options)  # type: ignore[arg-type] # named options
    return [(point.step, point.values["loss"]) for point in curves.series["train"]]


def test_every_line_finds_its_table_under_one_numbering(database: Database) -> None:
    lines = [
        PhaseLine(phase="training"),
        ProgressLine(step=1, total_steps=10, message="go"),
        train(1),
        LogLine(line="hello"),
        SampleLine(step=1, prompt="The", text=" end"),
        NoticeLine(level="warning", message="careful"),
        LogLine(line="bye"),
    ]
    with database.transaction() as session:
        job = running_training(session)
        record(session, job.id, 1, lines)
        row = get_job(session, job.id)
        assert (row.seq, row.phase, row.step, row.total_steps, row.message) == (
            8,
            "training",
            1,
            10,
            "go",
        )
        events = read_events(session, job.id, after=2, limit=9)
        assert [(event.seq, event.type, event.data) for event in events] == [
            (3, "phase", {"phase": "training"}),
            (6, "sample", {"step": 1, "prompt": "The", "text": " end"}),
            (7, "notice", {"level": "warning", "message": "careful"}),
        ]
        assert [(log.seq, log.line) for log in read_logs(session, job.id, after=0, limit=9)] == [
            (5, "hello"),
            (8, "bye"),
        ]
        metric = read_metrics(session, job.id, after=0, limit=9)[0]
        assert (metric.seq, metric.series, metric.step, metric.tokens, metric.attempt) == (
            4,
            "train",
            1,
            100,
            1,
        )


def test_the_stream_is_read_in_order_and_in_pieces(database: Database) -> None:
    with database.transaction() as session:
        job = running_training(session)
        record(session, job.id, 1, [train(1), LogLine(line="a"), PhaseLine(phase="x"), train(2)])
        stream = read_stream(session, job.id, after=0, limit=99)
        assert [entry.seq for entry in stream] == [1, 2, 3, 4, 5, 6]
        kinds = [str(entry.type) for entry in stream]
        assert kinds == ["state", "state", "metrics", "log", "phase", "metrics"]
        assert stream[2].data == {
            "series": "train",
            "step": 1,
            "tokens": 100,
            "values": {"loss": 1.0},
        }
        assert stream[3].data == {"line": "a"}
        assert [e.seq for e in read_stream(session, job.id, after=2, limit=3)] == [3, 4, 5]
        assert read_stream(session, job.id, after=6, limit=3) == []


def test_progress_alone_takes_no_number(database: Database) -> None:
    with database.transaction() as session:
        job = running_training(session)
        record(session, job.id, 1, [ProgressLine(step=4, total_steps=9)])
        row = get_job(session, job.id)
        assert (row.seq, row.step, row.total_steps) == (2, 4, 9)


def test_speed_is_a_median_and_gives_the_remaining_time(database: Database) -> None:
    with database.transaction() as session:
        job = running_training(session)
        record(session, job.id, 1, [ProgressLine(step=0, total_steps=110)])
        for step, speed in ((1, 50.0), (2, 1.0), (3, 60.0), (4, 70.0), (5, 9999.0)):
            record(session, job.id, 1, [train(step, speed=speed)])
        row = get_job(session, job.id)
        assert row.tokens_per_second == 60.0
        record(session, job.id, 1, [train(step, speed=50.0) for step in range(6, 11)])
        row = get_job(session, job.id)
        assert (row.step, row.tokens_per_second) == (10, 50.0)
        assert row.eta_seconds == pytest.approx(100 * 100 / 50)


def test_values_that_json_cannot_hold_are_left_out(database: Database) -> None:
    with database.transaction() as session:
        job = running_training(session)
        line = MetricsLine(
            series="train",
            step=1,
            tokens=1,
            values={"loss": float("nan"), "lr": float("inf"), "grad_norm": 2.0},
        )
        record(session, job.id, 1, [line])
        assert read_metrics(session, job.id, after=0, limit=9)[0].values == {"grad_norm": 2.0}


def test_log_lines_are_cut_and_made_storable(database: Database) -> None:
    with database.transaction() as session:
        job = running_training(session)
        record(session, job.id, 1, [LogLine(line="x" * 9999), LogLine(line="nul \0 \udc80")])
        long, odd = read_logs(session, job.id, after=0, limit=9)
        assert long.line == "x" * (MAX_LINE_CHARS - 1) + "\u2026"
        assert odd.line == "nul \ufffd ?"


def test_a_repeated_point_is_dropped(database: Database) -> None:
    with database.transaction() as session:
        job = running_training(session)
        record(session, job.id, 1, [train(1, loss=5.0), train(1, loss=6.0)])
        record(session, job.id, 1, [train(1, loss=7.0), train(2, loss=4.0)])
        assert losses(session, job.id) == [(1, 5.0), (2, 4.0)]
        assert get_job(session, job.id).seq == 6


def test_points_that_a_resumed_attempt_wrote_again_are_hidden(database: Database) -> None:
    with database.transaction() as session:
        job = running_training(session)
        record(session, job.id, 1, [train(step, loss=10.0) for step in (1, 2, 3)])
        commit(session, job, 2)
        record(session, job.id, 1, [train(4, loss=10.0)])
        lifecycle.stall(session, job.id, 1, message="died")
        job = claim_job(session, job)
        assert losses(session, job.id) == [(1, 10.0), (2, 10.0)]
        record(session, job.id, job.token, [train(3, loss=20.0), train(4, loss=20.0)])
        assert losses(session, job.id) == [(1, 10.0), (2, 10.0), (3, 20.0), (4, 20.0)]
        assert len(losses(session, job.id, superseded=True)) == 6


def test_an_attempt_that_starts_from_nothing_hides_all_before_it(database: Database) -> None:
    with database.transaction() as session:
        job = running_training(session)
        record(session, job.id, 1, [train(0, loss=10.0), train(1, loss=10.0)])
        lifecycle.stall(session, job.id, 1, message="died")
        job = claim_job(session, job)
        record(session, job.id, job.token, [train(0, loss=20.0)])
        assert losses(session, job.id) == [(0, 20.0)]


def test_a_thinned_curve_keeps_its_spikes(database: Database) -> None:
    with database.transaction() as session:
        job = running_training(session)
        for first in range(0, 1000, 20):
            steps = range(first, first + 20)
            record(
                session,
                job.id,
                1,
                [
                    train(step, loss=99.0 if step == 537 else -5.0 if step == 211 else 1000 - step)
                    for step in steps
                ],
            )
        whole = losses(session, job.id)
        assert [step for step, _ in whole] == list(range(1000))
        thin = losses(session, job.id, max_points=20)
        assert len(thin) == 20  # the newest point is its interval's lowest
        assert {(537, 99.0), (211, -5.0), (0, 1000.0), (999, 1.0)} <= set(thin)
        assert thin == sorted(thin)
        assert losses(session, job.id, max_points=1000) == whole


def test_a_long_curve_is_thinned_from_its_blocks(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two attempts, the first cut off within a block, a repeated point, lines between."""
    with database.transaction() as session:
        job = running_training(session)
        points = [train(step, loss=900.0 - step) for step in range(400)]
        points[137] = train(137, loss=-7.0)
        points[250] = train(250, loss=5000.0)  # beyond the checkpoint
        points[300] = points[299]
        for first in range(0, 400, 20):
            if first == 200:
                commit(session, job, 203)
            record(session, job.id, 1, [*points[first : first + 20], LogLine(line="between")])
        lifecycle.requeue(session, job.id, 1)
        job = claim_job(session, get_job(session, job.id))
        for first in range(204, 504, 20):
            again = [train(step, loss=880.0 - step) for step in range(first, first + 20)]
            record(session, job.id, job.token, again)
        whole = losses(session, job.id)
        assert [step for step, _ in whole] == list(range(504))
        thin = losses(session, job.id, max_points=20)
        monkeypatch.setattr(metrics, "candidates", lambda *_args, **_more: None)
        slow = losses(session, job.id, max_points=20)
    assert len(thin) <= 21
    assert set(thin) <= set(whole)
    assert {(137, -7.0), (0, 900.0), (503, 377.0)} <= set(thin) & set(slow)
    neighbours = [min(abs(step - other) for other, _ in thin) for step, _ in slow]
    assert max(neighbours) <= 16  # of a block's length


def test_points_that_no_block_knows_are_read_one_by_one(database: Database) -> None:
    """As a worker of an earlier version writes them."""
    with database.transaction() as session:
        job = running_training(session)
        for first in range(0, 400, 20):
            record(session, job.id, 1, [train(s, loss=900.0 - s) for s in range(first, first + 20)])
        session.execute(delete(MetricBlockRow).where(MetricBlockRow.block < 5))
        assert losses(session, job.id, max_points=4)[0] == (0, 900.0)
        session.execute(delete(MetricBlockRow))
        assert losses(session, job.id, max_points=4)[0] == (0, 900.0)


def test_a_part_of_a_long_curve_is_shown_in_its_own_detail(database: Database) -> None:
    with database.transaction() as session:
        job = running_training(session)
        for first in range(0, 1000, 20):
            steps = range(first, first + 20)
            record(session, job.id, 1, [train(step, loss=1000.0 - step) for step in steps])
        part = losses(session, job.id, max_points=20, steps=(300, 399))
        assert len(part) == 20  # read one by one
        assert (part[0], part[-1]) == ((300, 700.0), (399, 601.0))
        long = losses(session, job.id, max_points=20, steps=(100, 899))
        assert len(long) == 20  # from the blocks, so less than a block may lack at both ends
        assert (long[0], long[-1]) == ((108, 892.0), (893, 107.0))
        assert losses(session, job.id, max_points=20, steps=(2000, None)) == []
