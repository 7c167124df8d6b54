"""Parts of a curve over HTTP, and the points that a resumed attempt has replaced."""

from __future__ import annotations

from starlette.testclient import TestClient

from shared.contracts.progress import MetricsLine
from shared.db.session import Database
from shared.db.tables import JobRow
from shared.jobs.life import lifecycle
from shared.jobs.life.recorder import record
from tests.support import rows


def resumed_run(database: Database) -> JobRow:
    """A run that wrote steps 1 to 4, died after a checkpoint at 2, and wrote 3 and 4 again."""

    def lines(*steps: int) -> list[MetricsLine]:
        values = {"loss": 1.0}
        return [
            MetricsLine(series="train", step=step, tokens=step, values=values) for step in steps
        ]

    with database.transaction() as session:
        job = rows.running_training(session)
        record(session, job.id, 1, lines(1, 2, 3, 4))
        rows.commit(session, job, 2)
        lifecycle.stall(session, job.id, 1, message="died")
        job = rows.claim_job(session, job)
        record(session, job.id, job.token, lines(3, 4))
        return job


def points(client: TestClient, job_id: str, query: str) -> list[tuple[int, int]]:
    answer = client.get(f"/v1/jobs/{job_id}/metrics?{query}")
    assert answer.status_code == 200
    return [(one["step"], one["attempt"]) for one in answer.json()["series"]["train"]]


def test_a_part_of_a_curve(client: TestClient, database: Database) -> None:
    job = resumed_run(database)
    assert points(client, job.id, "") == [(1, 1), (2, 1), (3, 2), (4, 2)]
    assert points(client, job.id, "first_step=2&last_step=3") == [(2, 1), (3, 2)]
    assert points(client, job.id, "first_step=4") == [(4, 2)]
    assert points(client, job.id, "last_step=1") == [(1, 1)]
    assert points(client, job.id, "first_step=5") == []


def test_superseded_points_are_there_when_asked_for(client: TestClient, database: Database) -> None:
    job = resumed_run(database)
    both = [(1, 1), (2, 1), (3, 1), (3, 2), (4, 1), (4, 2)]
    assert points(client, job.id, "superseded=true") == both


def test_a_bound_that_is_no_step_is_refused(client: TestClient, database: Database) -> None:
    job = resumed_run(database)
    for query in ("first_step=-1", "last_step=x", f"last_step={2**63}"):
        refused = client.get(f"/v1/jobs/{job.id}/metrics?{query}")
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"].startswith("/query/")
