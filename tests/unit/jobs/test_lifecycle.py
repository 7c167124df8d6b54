"""Claims, leases, stalls and the fence."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from shared.base.errors import JobFailedError, LeaseLostError
from shared.contracts.names import Desired, FailureCode, JobState, Queue
from shared.contracts.progress import LogLine, PhaseLine
from shared.contracts.views import EventType
from shared.db.repositories.artifacts import get_artifact
from shared.db.repositories.checkpoints import list_checkpoints
from shared.db.repositories.jobs import get_job, list_jobs
from shared.db.repositories.stream import events_of_type, read_events, read_logs
from shared.db.session import Database, database_now
from shared.jobs.life import lifecycle, requests
from shared.jobs.life.recorder import record
from tests.support.rows import (
    INGEST,
    base_model,
    claim_job,
    claim_next,
    commit,
    dataset_meta,
    finish,
    finished_output,
    running_training,
    submit,
)

STALE = 1


def test_a_claim_raises_the_fence_and_takes_a_lease(database: Database) -> None:
    with database.transaction() as session:
        job = submit(session, INGEST)
        before = database_now(session)
        claimed = claim_job(session, job)
        assert (claimed.state, claimed.token, claimed.attempt) == (JobState.RUNNING, 1, 1)
        assert claimed.lease_owner == "worker-1"
        assert claimed.lease_expires_at is not None
        assert claimed.lease_expires_at - before >= timedelta(seconds=45)
        assert claimed.started_at is not None
        newest = read_events(session, job.id, after=1, limit=9)[-1]
        assert newest.data == {"state": "running", "worker": "worker-1", "resume_step": None}
        assert lifecycle.claim(session, Queue.TOKENIZER, worker_id="w", lease_seconds=45) is None


def test_priority_goes_before_age_and_queues_do_not_mix(database: Database) -> None:
    with database.transaction() as session:
        old = submit(session, INGEST)
        urgent = submit(session, INGEST | {"priority": 5})
        young = submit(session, INGEST)
        assert lifecycle.claim(session, Queue.TRAINER_GPU, worker_id="w", lease_seconds=45) is None
        assert [claim_next(session).id for _ in range(3)] == [urgent.id, old.id, young.id]


def test_a_heartbeat_extends_the_lease_and_brings_the_wish(database: Database) -> None:
    with database.transaction() as session:
        job = claim_job(session, submit(session, INGEST))
        first = job.lease_expires_at
        assert lifecycle.heartbeat(session, job.id, 1, lease_seconds=100) is Desired.RUN
        later = get_job(session, job.id).lease_expires_at
        assert first is not None
        assert later is not None
        assert later > first + timedelta(seconds=50)
        requests.request_pause(session, job.id)
        assert lifecycle.heartbeat(session, job.id, 1, lease_seconds=45) is Desired.PAUSE


def test_a_stale_token_writes_nothing(database: Database) -> None:
    """A worker that slept through its lease wakes up and tries everything it can."""
    with database.transaction() as session:
        job = running_training(session)
        lifecycle.stall(session, job.id, STALE, message="died")
        claimed = claim_job(session, job)
        assert claimed.token == 3
        before = (claimed.seq, claimed.state, claimed.lease_expires_at)
    claimed.token = STALE  # never flushed: the row is detached
    attempts = (
        lambda session: lifecycle.heartbeat(session, job.id, STALE, lease_seconds=45),
        lambda session: lifecycle.succeed(session, job.id, STALE),
        lambda session: lifecycle.fail(
            session, job.id, STALE, code=FailureCode.BAD_DATA, message="no"
        ),
        lambda session: lifecycle.requeue(session, job.id, STALE),
        lambda session: lifecycle.cancelled(session, job.id, STALE),
        lambda session: lifecycle.stall(session, job.id, STALE, message="no"),
        lambda session: record(session, job.id, STALE, [PhaseLine(phase="x"), LogLine(line="x")]),
        lambda session: commit(session, claimed, 5),
    )
    for attempt in attempts:
        with pytest.raises(LeaseLostError), database.transaction() as session:
            attempt(session)
    with database.reading() as session:
        row = get_job(session, job.id)
        assert (row.seq, row.state, row.lease_expires_at) == before
        assert read_logs(session, job.id, after=0, limit=9) == []
        assert list_checkpoints(session, job.id) == []


def test_success_writes_artifacts_events_and_outputs(database: Database) -> None:
    with database.transaction() as session:
        job = claim_job(session, submit(session, INGEST))
        output = finished_output(job, dataset_meta())
        done = lifecycle.succeed(session, job.id, 1, outputs=[output])
        assert done.state is JobState.SUCCEEDED
        assert done.outputs == {"dataset": output.manifest.id}
        assert done.finished_at is not None
        assert done.lease_owner is None
        row = get_artifact(session, output.manifest.id)
        assert (row.name, row.bytes, row.job_id, row.token) == ("my dataset", 100, job.id, 1)
        events = read_events(session, job.id, after=2, limit=9)
        assert [(event.seq, event.type) for event in events] == [(3, "output"), (4, "state")]
        assert events[1].data == {"state": "succeeded", "outputs": done.outputs}


def test_success_without_its_outputs_is_refused_and_changes_nothing(database: Database) -> None:
    with database.transaction() as session:
        job = claim_job(session, submit(session, INGEST))
    missing = pytest.raises(JobFailedError, match="without putting out dataset")
    with missing, database.transaction() as session:
        lifecycle.succeed(session, job.id, 1)
    with database.reading() as session:
        assert get_job(session, job.id).state is JobState.RUNNING


def test_a_drained_job_is_queued_again_without_a_stall(database: Database) -> None:
    with database.transaction() as session:
        job = claim_job(session, submit(session, INGEST))
        again = lifecycle.requeue(session, job.id, 1)
        assert (again.state, again.stalls, again.token) == (JobState.QUEUED, 0, 1)
        assert (again.lease_owner, again.dispatched_at) == (None, None)
        assert claim_job(session, again).token == 2


def test_a_job_resumed_while_it_was_pausing_is_queued(database: Database) -> None:
    with database.transaction() as session:
        job = claim_job(session, submit(session, INGEST))
        requests.request_pause(session, job.id)
        requests.request_resume(session, job.id)
        assert lifecycle.park(session, job.id, 1).state is JobState.QUEUED


def test_three_crashes_without_a_checkpoint_are_the_end(database: Database) -> None:
    with database.transaction() as session:
        job = submit(session, INGEST)
        for stalls in (1, 2):
            claimed = claim_job(session, job)
            row = lifecycle.stall(session, job.id, claimed.token, message="Exit code -9.")
            assert (row.state, row.stalls) == (JobState.QUEUED, stalls)
        claimed = claim_job(session, job)
        row = lifecycle.stall(session, job.id, claimed.token, message="Exit code -9.", hint="RAM?")
        assert (row.state, row.stalls, row.error_code) == (JobState.FAILED, 3, "crashed")
        assert row.error_message == (
            "Exit code -9. This was attempt 3 in a row without a new checkpoint."
        )
        assert row.error_hint == "RAM?"


def test_a_checkpoint_forgives_all_crashes(database: Database) -> None:
    with database.transaction() as session:
        job = running_training(session)
        for step in range(1, 6):
            lifecycle.stall(session, job.id, job.token, message="died")
            job = claim_job(session, job)
            assert job.stalls == 1
            commit(session, job, step)
            assert get_job(session, job.id).stalls == 0
        assert lifecycle.resume_checkpoint_id(job) == job.last_checkpoint_id
        assert job.attempt == 6


def test_only_expired_leases_are_reaped(database: Database) -> None:
    with database.transaction() as session:
        lost, kept = (claim_job(session, submit(session, INGEST)) for _ in range(2))
        now = database_now(session)
        assert lifecycle.reap_expired(session, now) == []
        lifecycle.heartbeat(session, kept.id, 1, lease_seconds=100)
        later = now + timedelta(seconds=60)
        assert lifecycle.reap_expired(session, later) == [lost.id]
        row = get_job(session, lost.id)
        assert (row.state, row.token, row.stalls) == (JobState.QUEUED, 2, 1)
        assert get_job(session, kept.id).state is JobState.RUNNING
        for _ in range(2):
            claim_job(session, lost)
            lifecycle.reap_expired(session, later)
        row = get_job(session, lost.id)
        assert (row.state, row.error_code) == (JobState.FAILED, "lost_worker")


def test_a_lease_from_before_the_clock_was_set_back_has_expired(database: Database) -> None:
    with database.transaction() as session:
        submit(session, INGEST)
        lost = claim_next(session)
        now = database_now(session)
        assert lifecycle.reap_expired(session, now - timedelta(seconds=40)) == []
        assert lifecycle.reap_expired(session, now - timedelta(hours=1)) == [lost.id]


def test_a_damaged_checkpoint_is_forsaken_for_the_one_before(database: Database) -> None:
    with database.transaction() as session:
        job = running_training(session)
        sound, damaged = commit(session, job, 1), commit(session, job, 2)
        row = lifecycle.forsake_checkpoint(
            session, job.id, job.token, checkpoint_id=damaged.id, message="torn"
        )
        assert (row.state, row.stalls, row.last_checkpoint_id) == ("queued", 0, sound.id)
        again = claim_job(session, row)
        event = events_of_type(session, job.id, EventType.STATE)[-1]
        assert (event.data["state"], event.data["resume_step"]) == ("running", 1)
        row = lifecycle.forsake_checkpoint(
            session, job.id, again.token, checkpoint_id=sound.id, message="torn too"
        )
        assert row.last_checkpoint_id is None


def test_the_reaper_obeys_a_cancel_that_the_lost_worker_did_not(database: Database) -> None:
    with database.transaction() as session:
        job = claim_job(session, submit(session, INGEST))
        requests.request_cancel(session, job.id)
        lifecycle.reap_expired(session, database_now(session) + timedelta(seconds=60))
        row = get_job(session, job.id)
        assert (row.state, row.error_code) == (JobState.CANCELLED, None)


def test_an_end_that_came_before_the_cancel_stands(database: Database) -> None:
    with database.transaction() as session:
        job = claim_job(session, submit(session, INGEST))
        requests.request_cancel(session, job.id)
        output = finished_output(job, dataset_meta())
        row = lifecycle.succeed(session, job.id, 1, outputs=[output])
        assert row.state is JobState.SUCCEEDED


def test_messages_that_postgres_cannot_hold_are_made_storable(database: Database) -> None:
    with database.transaction() as session:
        job = claim_job(session, submit(session, INGEST))
        row = lifecycle.fail(
            session, job.id, 1, code=FailureCode.BAD_DATA, message="a\0b\ud800c", hint="\0"
        )
        assert (row.error_message, row.error_hint) == ("a\ufffdb?c", "\ufffd")


def test_a_resumed_job_says_from_which_step(database: Database) -> None:
    with database.transaction() as session:
        base = base_model(session)
        checkpoint = base.outputs["checkpoint"]
        document = {"kind": "train", "spec": {**base.spec, "resume_from": checkpoint}}
        job = claim_job(session, submit(session, document))
        assert lifecycle.resume_checkpoint_id(job) == checkpoint
        event = read_events(session, job.id, after=1, limit=9)[-1]
        assert event.data["resume_step"] == 10


def test_eight_claimers_claim_two_hundred_jobs_once_each(database: Database) -> None:
    """Each claimer has an engine of its own, so that only the database stands between them."""
    with database.transaction() as session:
        expected = sorted(submit(session, INGEST | {"fresh": True}).id for _ in range(200))

    def claim_all(worker_id: str) -> list[str]:
        own = Database(database.engine.url.render_as_string(hide_password=False))
        claimed: list[str] = []
        while True:
            with own.transaction() as session:
                row = lifecycle.claim(
                    session, Queue.TOKENIZER, worker_id=worker_id, lease_seconds=45
                )
            if row is None:
                own.close()
                return claimed
            claimed.append(row.id)

    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(claim_all, [f"worker-{number}" for number in range(8)]))
    assert sorted(job_id for claimed in claims for job_id in claimed) == expected
    with database.reading() as session:
        rows = list_jobs(session, limit=300)
        assert {(row.token, row.attempt, row.seq) for row in rows} == {(1, 1, 2)}
        owners = {row.id: row.lease_owner for row in rows}
    assert all(owners[job] == f"worker-{n}" for n, claimed in enumerate(claims) for job in claimed)


def test_a_finished_job_is_not_claimed_again(database: Database) -> None:
    with database.transaction() as session:
        finish(session, submit(session, INGEST), dataset_meta())
        assert lifecycle.claim(session, Queue.TOKENIZER, worker_id="w", lease_seconds=45) is None
