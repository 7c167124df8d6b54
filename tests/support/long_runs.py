"""A run with a point at every one of many steps, as rows."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import insert

from shared.db.session import Database
from shared.db.tables import MetricRow
from tests.support import rows

NUM_POINTS = 100_000


def long_run(database: Database) -> str:
    """Write the run, without the detours of a worker, and return its job's id."""
    with database.transaction() as session:
        job = rows.running_training(session, max_steps=NUM_POINTS)
        now = datetime.now(UTC)
        points = [
            {"job_id": job.id, "seq": 100 + step, "series": "train", "attempt": 1, "step": step,
             "tokens": step * 64, "at": now, "loss": 1000 / (step + 100),
             "values": {"loss": 1000 / (step + 100), "learning_rate": 1e-3}}
            for step in range(1, NUM_POINTS + 1)
        ]  # fmt: skip
        session.execute(insert(MetricRow), points)
        job.seq = 100 + NUM_POINTS
    database.close()
    return job.id
