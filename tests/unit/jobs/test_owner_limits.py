"""Limits per owner, priorities, and few wake-ups however many jobs are queued."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.base.errors import TooManyError
from shared.contracts.jobs import PipelineCreate
from shared.contracts.names import JobState, Queue
from shared.db.session import Database
from shared.db.tables import JobRow
from shared.jobs.leader.dispatch import note_wakes, plan_wakes
from shared.jobs.life.lifecycle import claim, requeue
from shared.jobs.life.presence import worker_heartbeat
from shared.jobs.life.submission import submit_job, submit_pipeline
from tests.support.rows import INGEST, add_queued, claim_next, job_request, submit

SLOTS = 4
CLAIMERS = 8


def claim_limited(database: Database) -> str | None:
    """The owner of the job that is claimed next when one of each owner may run."""
    with database.transaction() as session:
        row = claim(session, Queue.TOKENIZER, worker_id="w", lease_seconds=45, owner_limit=1)
        return None if row is None else row.owner


def test_an_owner_at_its_limit_waits_and_others_pass(database: Database) -> None:
    add_queued(database, ["ann", "ann"], priority=5)
    add_queued(database, ["bob", ""])
    assert [claim_limited(database) for _ in range(4)] == ["ann", "bob", "", None]
    with database.transaction() as session:
        ann = session.query(JobRow).filter_by(owner="ann", state=JobState.RUNNING).one()
        requeue(session, ann.id, ann.token)
    assert claim_limited(database) == "ann"


def test_claimers_at_once_do_not_exceed_the_limit(database: Database) -> None:
    add_queued(database, ["ann"] * 40 + ["bob"] * 40)
    with ThreadPoolExecutor(CLAIMERS) as pool:
        claimed = list(pool.map(lambda _: claim_limited(database), range(CLAIMERS)))
    assert sorted(owner for owner in claimed if owner) == ["ann", "bob"]


def test_few_wake_ups_for_many_jobs_the_most_urgent_first(database: Database) -> None:
    add_queued(database, ["ann"] * 10_000)
    add_queued(database, ["bob"] * 3, priority=7)
    with database.transaction() as session:
        worker_heartbeat(session, "w", slots={Queue.TOKENIZER: SLOTS}, running=[])
        urgent = {row.id for row in session.query(JobRow).filter_by(owner="bob")}
        sent = []
        for _ in range(10):
            wakes = plan_wakes(session, lease_seconds=45, resend_seconds=60)
            note_wakes(session, wakes)
            sent += [wake.job_id for wake in wakes]
    assert len(sent) == 2 * SLOTS
    assert set(sent[:3]) == urgent


def test_wake_ups_pass_over_an_owner_at_its_limit(database: Database) -> None:
    add_queued(database, ["ann"] * 20, priority=7)
    with database.transaction() as session:
        worker_heartbeat(session, "w", slots={Queue.TOKENIZER: 2}, running=[])
        note_wakes(session, plan_wakes(session, lease_seconds=45, resend_seconds=60, owner_limit=1))
    assert claim_limited(database) == "ann"
    add_queued(database, ["bob"])
    with database.transaction() as session:
        wakes = plan_wakes(session, lease_seconds=45, resend_seconds=60, owner_limit=1)
        owners = [session.get_one(JobRow, wake.job_id).owner for wake in wakes]
    assert owners == ["bob"]


def test_too_many_jobs_of_one_owner_are_refused_whole(database: Database) -> None:
    ann = INGEST | {"owner": "ann", "fresh": True}
    pipeline = PipelineCreate.model_validate({"name": "both", "jobs": {"a": ann, "b": ann}})
    with database.transaction() as session:
        submit(session, ann)
        submit(session, ann)
        with pytest.raises(TooManyError, match="2 jobs of owner 'ann' have not begun yet"):
            submit_pipeline(session, pipeline, code_version="1", queued_limit=3)
        submit_job(session, job_request(ann), code_version="1", queued_limit=3)
        with pytest.raises(TooManyError):
            submit_job(session, job_request(ann), code_version="1", queued_limit=3)
        submit_job(session, job_request(INGEST), code_version="1", queued_limit=3)
        claim_next(session)
        submit_job(session, job_request(ann), code_version="1", queued_limit=3)
