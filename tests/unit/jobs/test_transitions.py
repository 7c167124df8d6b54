"""Which state follows which, row by row and operation by operation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from shared.base.clock import utc_now
from shared.base.errors import ConflictError, LeaseLostError, PlatformError
from shared.contracts.names import LEGAL_TRANSITIONS, Desired, FailureCode, JobState
from shared.db.repositories.jobs import get_job
from shared.db.repositories.stream import read_events
from shared.db.repositories.transitions import move_job
from shared.db.session import Database
from shared.db.tables import JobRow
from shared.jobs.life import lifecycle, requests, submission
from tests.support.rows import INGEST, submit

TOKEN = 7
WAITING, QUEUED, RUNNING, PAUSED = (
    JobState.WAITING,
    JobState.QUEUED,
    JobState.RUNNING,
    JobState.PAUSED,
)
SUCCEEDED, FAILED, CANCELLED = JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED


def job_in(session: Session, state: JobState, desired: Desired = Desired.RUN) -> str:
    job_id = submit(session, INGEST | {"fresh": True}).id
    values = {"state": state, "desired": desired, "token": TOKEN}
    session.execute(update(JobRow).where(JobRow.id == job_id).values(values))
    return job_id


@pytest.mark.parametrize(("source", "to"), list(product(JobState, JobState)))
def test_a_job_moves_only_along_legal_transitions(
    database: Database, source: JobState, to: JobState
) -> None:
    with database.transaction() as session:
        job_id = job_in(session, source)
        moved = move_job(session, job_id, sources=set(JobState), to=to, now=utc_now())
        row = get_job(session, job_id)
        legal = to in LEGAL_TRANSITIONS[source]
        assert (moved is not None) is legal
        assert row.state is (to if legal else source)
        assert row.seq == (2 if legal else 1)
        states = [event.data["state"] for event in read_events(session, job_id, after=0, limit=9)]
        assert states == (["queued", to] if legal else ["queued"])


def test_a_terminal_state_is_the_last_one() -> None:
    for state in (SUCCEEDED, FAILED, CANCELLED):
        assert LEGAL_TRANSITIONS[state] == frozenset()


HELD_OPERATIONS: dict[str, tuple[Callable[[Session, str], object], JobState]] = {
    "heartbeat": (
        lambda session, job: lifecycle.heartbeat(session, job, TOKEN, lease_seconds=45),
        RUNNING,
    ),
    "fail": (
        lambda session, job: lifecycle.fail(
            session, job, TOKEN, code=FailureCode.BAD_DATA, message="no"
        ),
        FAILED,
    ),
    "requeue": (lambda session, job: lifecycle.requeue(session, job, TOKEN), QUEUED),
    "park": (lambda session, job: lifecycle.park(session, job, TOKEN), QUEUED),
    "cancelled": (lambda session, job: lifecycle.cancelled(session, job, TOKEN), CANCELLED),
    "stall": (lambda session, job: lifecycle.stall(session, job, TOKEN, message="died"), QUEUED),
}


@pytest.mark.parametrize(("name", "state"), list(product(HELD_OPERATIONS, JobState)))
def test_what_a_worker_does_needs_a_running_job(
    database: Database, name: str, state: JobState
) -> None:
    operation, result = HELD_OPERATIONS[name]
    with database.transaction() as session:
        job_id = job_in(session, state)
        if state is RUNNING:
            operation(session, job_id)
            assert get_job(session, job_id).state is result
        else:
            with pytest.raises(LeaseLostError):
                operation(session, job_id)
            assert get_job(session, job_id).state is state


@pytest.mark.parametrize("name", ["requeue", "park", "stall"])
@pytest.mark.parametrize(
    ("desired", "result"), [(Desired.PAUSE, PAUSED), (Desired.CANCEL, CANCELLED)]
)
def test_an_interrupted_job_goes_where_its_owner_wants_it(
    database: Database, name: str, desired: Desired, result: JobState
) -> None:
    with database.transaction() as session:
        job_id = job_in(session, RUNNING, desired)
        HELD_OPERATIONS[name][0](session, job_id)
        assert get_job(session, job_id).state is result


REQUESTS: dict[str, tuple[Callable[[Session, str], JobRow], dict[JobState, JobState]]] = {
    "cancel": (
        requests.request_cancel,
        {
            WAITING: CANCELLED,
            QUEUED: CANCELLED,
            PAUSED: CANCELLED,
            RUNNING: RUNNING,
            CANCELLED: CANCELLED,
        },
    ),
    "pause": (
        requests.request_pause,
        {WAITING: PAUSED, QUEUED: PAUSED, PAUSED: PAUSED, RUNNING: RUNNING},
    ),
    "resume": (
        requests.request_resume,
        {WAITING: WAITING, QUEUED: QUEUED, PAUSED: QUEUED, RUNNING: RUNNING},
    ),
    "retry": (submission.retry, {FAILED: QUEUED, CANCELLED: QUEUED}),
}


@pytest.mark.parametrize(("name", "state"), list(product(REQUESTS, JobState)))
def test_what_an_owner_may_ask_in_which_state(
    database: Database, name: str, state: JobState
) -> None:
    request, results = REQUESTS[name]
    with database.transaction() as session:
        job_id = job_in(session, state)
        if state in results:
            assert request(session, job_id).state is results[state]
        else:
            with pytest.raises(ConflictError):
                request(session, job_id)
            assert get_job(session, job_id).state is state


def test_asking_for_an_unknown_job_says_so(database: Database) -> None:
    for request, _ in REQUESTS.values():
        with database.transaction() as session, pytest.raises(PlatformError) as raised:
            request(session, "job_01ARZ3NDEKTSV4RRFFQ69G5FAV")
        assert raised.value.code == "not_found"


@pytest.mark.parametrize("wanted", [Desired.PAUSE, Desired.RUN])
def test_a_cancel_is_not_taken_back(database: Database, wanted: Desired) -> None:
    ask = requests.request_pause if wanted is Desired.PAUSE else requests.request_resume
    with database.transaction() as session:
        job_id = job_in(session, RUNNING, Desired.CANCEL)
        with pytest.raises(ConflictError):
            ask(session, job_id)
        assert get_job(session, job_id).desired is Desired.CANCEL
