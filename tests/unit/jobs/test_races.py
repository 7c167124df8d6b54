"""Two transactions at the same moment, each from a connection pool of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.orm import Session

from shared.base.errors import ConflictError, InvalidInputError, LeaseLostError, UnavailableError
from shared.contracts.names import TERMINAL_STATES, JobState, Queue
from shared.db.repositories import models
from shared.db.repositories.jobs import get_job
from shared.db.repositories.stream import read_events
from shared.db.session import Database, database_now
from shared.jobs.life import lifecycle, requests
from shared.jobs.life.retention import retire_checkpoints
from tests.support.rows import (
    INGEST,
    add_tokens,
    claim_job,
    commit,
    dataset_meta,
    finished_output,
    running_training,
    submit,
    train_document,
)

ROUNDS = 20
Action = Callable[[Session], object]


@pytest.fixture
def pools(database: Database) -> Iterator[list[Database]]:
    url = database.engine.url.render_as_string(hide_password=False)
    pools = [Database(url) for _ in range(2)]
    yield pools
    for pool in pools:
        pool.close()


def at_once(pools: list[Database], *actions: Action) -> None:
    """Run each action in a transaction of its own thread; a deadlock's victim tries again."""
    barrier = threading.Barrier(len(actions))

    def run(pool: Database, action: Action) -> None:
        pool.check()  # the connection is there, the actions start together
        barrier.wait()
        while True:
            try:
                with pool.transaction() as session:
                    action(session)
            except UnavailableError:
                continue
            return

    with ThreadPoolExecutor(len(actions)) as executor:
        list(executor.map(run, pools, actions))


def test_a_child_submitted_while_its_parent_succeeds_is_never_forgotten(
    database: Database, pools: list[Database]
) -> None:
    for _ in range(ROUNDS):
        with database.transaction() as session:
            parent = claim_job(session, submit(session, INGEST | {"fresh": True}))
        output = finished_output(parent, dataset_meta())
        reference = {"job": parent.id, "output": "dataset"}
        document = {"kind": "tokenize", "spec": {"dataset": reference}}
        children: list[str] = []
        at_once(
            pools,
            lambda session, job=parent, item=output: lifecycle.succeed(
                session, job.id, 1, outputs=[item]
            ),
            lambda session, request=document, made=children: made.append(
                submit(session, request).id
            ),
        )
        with database.reading() as session:
            child = get_job(session, children[-1])
            assert child.state is JobState.QUEUED
            assert child.resolved_inputs == {"dataset": output.manifest.id}


def test_two_parents_that_succeed_at_once_release_their_child(
    database: Database, pools: list[Database]
) -> None:
    for _ in range(ROUNDS):
        with database.transaction() as session:
            jobs = [claim_job(session, submit(session, INGEST | {"fresh": True})) for _ in "ab"]
            spec = {
                "dataset": {"job": jobs[0].id, "output": "dataset"},
                "validation_dataset": {"job": jobs[1].id, "output": "dataset"},
            }
            child = submit(session, {"kind": "tokenize", "spec": spec})
        at_once(
            pools,
            *(
                lambda session, job=job: lifecycle.succeed(
                    session, job.id, 1, outputs=[finished_output(job, dataset_meta())]
                )
                for job in jobs
            ),
        )
        with database.reading() as session:
            released = get_job(session, child.id)
            assert released.state is JobState.QUEUED
            assert set(released.resolved_inputs) == {"dataset", "validation_dataset"}


def test_a_cancel_that_races_the_end_leaves_one_terminal_state(
    database: Database, pools: list[Database]
) -> None:
    def cancel(session: Session, job_id: str) -> None:
        try:
            requests.request_cancel(session, job_id)
        except ConflictError:
            assert get_job(session, job_id).state is JobState.SUCCEEDED

    for _ in range(ROUNDS):
        with database.transaction() as session:
            job = claim_job(session, submit(session, INGEST | {"fresh": True}))
        output = finished_output(job, dataset_meta())
        at_once(
            pools,
            lambda session, job=job, item=output: lifecycle.succeed(
                session, job.id, 1, outputs=[item]
            ),
            lambda session, job=job: cancel(session, job.id),
        )
        with database.reading() as session:
            events = read_events(session, job.id, after=0, limit=99)
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            states = [event.data.get("state") for event in events]
            assert [state for state in states if state in TERMINAL_STATES] == ["succeeded"]


def test_two_first_runs_of_a_model_publish_under_different_versions(
    database: Database, pools: list[Database]
) -> None:
    for number in range(ROUNDS):
        name = f"model-{number}"
        with database.transaction() as session:
            jobs = [running_training(session, model=name, publish="latest") for _ in "ab"]
        at_once(pools, *(lambda session, job=job: commit(session, job, 1) for job in jobs))
        with database.reading() as session:
            versions = models.list_versions(session, [name])
            assert [version.version for version, _ in versions] == [2, 1]
            assert {checkpoint.job_id for _, checkpoint in versions} == {job.id for job in jobs}
            assert models.get_model(session, name).served_version == 2


def test_retention_never_takes_a_checkpoint_that_is_just_being_chosen(
    database: Database, pools: list[Database]
) -> None:
    with database.transaction() as session:
        tokens = add_tokens(session)
    for _ in range(ROUNDS):
        with database.transaction() as session:
            spec = {"keep_checkpoints": 1, "publish": "never"}
            job = claim_job(session, submit(session, train_document(tokens, **spec)))
            chosen, _ = commit(session, job, 1), commit(session, job, 2)
        export = {"kind": "export", "spec": {"checkpoint": chosen.id}, "fresh": True}
        accepted: list[str] = []
        retired: list[str] = []

        def choose(session: Session, request: object, accepted: list[str]) -> None:
            try:
                accepted.append(submit(session, request).id)  # type: ignore[arg-type] # a document
            except InvalidInputError:
                accepted.clear()  # it was removed a moment before

        at_once(
            pools,
            lambda session, request=export, accepted=accepted: choose(session, request, accepted),
            lambda session, job=job, retired=retired: retired.extend(
                row.id for row in retire_checkpoints(session, job.id)
            ),
        )
        assert (accepted == []) is (retired == [chosen.id])


def test_a_reaper_and_a_late_heartbeat_agree(database: Database, pools: list[Database]) -> None:
    """Either the lease was renewed or the job was taken; never both, never neither."""
    for _ in range(ROUNDS):
        with database.transaction() as session:
            submit(session, INGEST | {"fresh": True, "priority": 100})
            job = lifecycle.claim(session, Queue.TOKENIZER, worker_id="w", lease_seconds=-1)
            assert job is not None
        outcome: dict[str, bool] = {}
        at_once(
            pools,
            lambda session, job=job, outcome=outcome: outcome.update(
                renewed=_renews(session, job.id)
            ),
            lambda session, job=job, outcome=outcome: outcome.update(
                reaped=job.id in lifecycle.reap_expired(session, database_now(session))
            ),
        )
        if not outcome["renewed"]:
            assert outcome["reaped"]
        with database.transaction() as session:
            row = get_job(session, job.id)
            taken = row.state is JobState.QUEUED
            assert taken is outcome["reaped"]
            if taken:
                requests.request_cancel(session, job.id)


def _renews(session: Session, job_id: str) -> bool:
    try:
        lifecycle.heartbeat(session, job_id, 1, lease_seconds=45)
    except LeaseLostError:
        return False
    return True
