"""What users do at bad moments, and deliveries nobody asked for: F11, F12, F15, F16, F17, F27."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
from sqlalchemy import func, select

from ryangpt.transport import ApiError
from shared.base.errors import LeaseLostError
from shared.contracts.manifest import OPTIMIZER_WEIGHTS
from shared.contracts.names import JobState, Queue
from shared.db.repositories import checkpoints
from shared.db.tables import JobRow
from shared.jobs.life.lifecycle import succeed
from shared.jobs.queue import WakeSender, make_celery
from shared.jobs.timing import LEASE_SECONDS
from tests.faults.history import check_history, claims_of, result_of
from tests.faults.trial import Trial
from tests.support.rows import INGEST, claim_job, dataset_meta, finished_output, submit
from tests.support.waiting import wait_until

THREADS = 50
DELIVERIES = 50
PAUSES = 20
ENDLESS = {"max_steps": 1_000_000}
LONG = 4
"""Times the usual steps: a wish takes a heartbeat to arrive."""


def checkpoint_damaged(trial: Trial) -> None:
    """F11: a bit flips in the newest checkpoint; the digest refuses it, the one before is used."""
    for _ in range(trial.scale.times):
        _damage_one(trial)


def _damage_one(trial: Trial) -> None:
    [job_id] = trial.submit()
    first = trial.cluster.wait_for_checkpoint(job_id)
    trial.cluster.wait_for_checkpoint(job_id, after=first)
    worker, _ = trial.cluster.wait_for_trainer(job_id)
    trial.cluster.kill(worker)
    damaged = _flip_a_bit(trial, job_id)
    trial.ledger.faults["bit flipped in the newest checkpoint"] += 1
    trial.cluster.start(worker)
    trial.finish(job_id)
    resumed = [claim.resume_step for claim in claims_of(trial.cluster, job_id)[1:]]
    assert resumed, "it was resumed"
    assert min(resumed) < damaged


def _flip_a_bit(trial: Trial, job_id: str) -> int:
    """Damage the newest checkpoint of the job and return its step."""
    with trial.cluster.database.reading() as session:
        row = max(checkpoints.list_checkpoints(session, job_id), key=lambda row: row.step)
    key = row.prefix + OPTIMIZER_WEIGHTS
    content = bytearray(trial.cluster.store.get_bytes(key))
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    trial.cluster.store.put_bytes(key, bytes(content))
    return row.step


def delivered_again(trial: Trial) -> None:
    """F12: wake-ups for running and finished jobs, fifty each and in any order: no extra run."""
    sender = WakeSender(make_celery(trial.cluster.settings()))
    try:
        for _ in range(trial.scale.times):
            [done] = trial.submit()
            trial.finish(done)
            events = trial.cluster.job(done).seq
            [running] = trial.submit()
            trial.cluster.wait_for_checkpoint(running)
            deliveries = [done, running] * DELIVERIES
            random.shuffle(deliveries)
            for job_id in deliveries:
                sender.send(Queue.TRAINER_GPU, job_id)
            trial.ledger.faults["wake-up that nobody asked for"] += len(deliveries)
            trial.finish(running)
            assert trial.cluster.job(running).attempt == 1
            assert trial.cluster.job(done).seq == events, "nothing more happened to it"
    finally:
        sender.close()


def cancelled_at_any_moment(trial: Trial) -> None:
    """F15: cancelled while it waits, loads, trains, stores a checkpoint, or hangs for good."""
    moments: dict[str, tuple[Callable[[str], None], float]] = {
        "loading": (lambda job_id: _wait_for_start(trial, job_id), 10.0),
        "in mid-step": (lambda job_id: _wait_for_step(trial, job_id), 10.0),
        "in mid-checkpoint": (lambda job_id: _wait_for_spool(trial, job_id), 30.0),
        "hung in C code": (lambda job_id: _hang(trial, job_id), 41.0),
    }
    for _ in range(max(1, trial.scale.times // 3)):
        for name, (reach, bound) in moments.items():
            [job_id] = trial.submit(**ENDLESS)
            reach(job_id)
            _cancel(trial, job_id, name, bound)
        _cancel_queued(trial)


def _cancel_queued(trial: Trial) -> None:
    running = trial.submit(len(trial.cluster.workers), **ENDLESS)
    for job_id in running:
        trial.cluster.wait_for(job_id, JobState.RUNNING)
    [queued] = trial.submit()
    _cancel(trial, queued, "queued", 1.0 / trial.scale.time_factor)  # nobody's interval is in it
    for job_id in running:
        _cancel(trial, job_id, "starting", 10.0)


def _cancel(trial: Trial, job_id: str, name: str, bound: float) -> None:
    since = time.monotonic()
    trial.client.cancel(job_id)
    trial.cluster.wait_for(job_id, JobState.CANCELLED)
    trial.bounded(f"seconds until cancelled, {name}", time.monotonic() - since, bound)
    trial.ledger.faults[f"cancelled {name}"] += 1
    trial.judge(job_id)


def _wait_for_start(trial: Trial, job_id: str) -> None:
    trial.cluster.wait_for_trainer(job_id)


def _wait_for_step(trial: Trial, job_id: str) -> None:
    trial.wait_until(lambda: trial.cluster.told_step(job_id) > 0, "a step")


def _wait_for_spool(trial: Trial, job_id: str) -> None:
    worker, _ = trial.cluster.wait_for_trainer(job_id)
    runs = trial.cluster.data_dir(worker) / "runs" / job_id
    wait_until(
        lambda: any(runs.glob("t*/spool/*")),
        "a checkpoint is being stored",
        seconds=trial.cluster.patience,
        poll=0.001,
    )


def _hang(trial: Trial, job_id: str) -> None:
    """A process that stands still heeds no signal, like one that is deep in somebody's C code."""
    _wait_for_step(trial, job_id)
    trial.cluster.wait_for_trainer(job_id)[1].suspend()


def cancel_races_completion(trial: Trial) -> None:
    """F16: whoever wins, the job ends once, and the answer to the user agrees with the row."""
    # As long as the platform's own: a longer one looks as if the clock had been set back.
    lease = LEASE_SECONDS * trial.scale.time_factor
    with ThreadPoolExecutor(2) as pool:
        for _ in range(trial.scale.races):
            with trial.cluster.database.transaction() as session:
                job = submit(session, INGEST | {"fresh": True})
                job = claim_job(session, job, lease_seconds=lease)
            trial.ledger.jobs += 1
            ending = pool.submit(_succeed, trial, job)
            answered = pool.submit(_cancel_by_api, trial, job.id).result()
            ending.result()
            row = trial.cluster.job(job.id)
            assert row.state is JobState.SUCCEEDED, "its process had finished"
            assert answered in (None, JobState.RUNNING, JobState.SUCCEEDED)
            check_history(trial.cluster, job.id)
            trial.ledger.ended += 1
            trial.ledger.faults["cancel against completion"] += 1


def _succeed(trial: Trial, job: JobRow) -> None:
    time.sleep(random.uniform(0.0, 0.02))
    output = finished_output(job, dataset_meta())
    with suppress(LeaseLostError), trial.cluster.database.transaction() as session:
        succeed(session, job.id, job.token, outputs=[output])


def _cancel_by_api(trial: Trial, job_id: str) -> JobState | None:
    """The state in the answer; None when it is too late to cancel."""
    try:
        return trial.client.cancel(job_id).state
    except ApiError as error:
        if error.status_code != httpx.codes.CONFLICT:
            raise
        return None


def paused_and_resumed(trial: Trial) -> None:
    """F17: jobs are paused and resumed again and again; each has one continuous curve."""
    long = {"max_steps": LONG * trial.cluster.steps}
    [quiet] = trial.submit(**long)
    trial.cluster.wait_for(quiet, JobState.SUCCEEDED)
    trial.judge(quiet)
    trial.expected = result_of(trial.cluster, quiet)
    pauses = PAUSES if trial.scale.time_factor == 1 else trial.scale.times
    while trial.ledger.faults.total() < pauses:
        [job_id] = trial.submit(**long)
        while trial.ledger.faults.total() < pauses and _pause_once(trial, job_id):
            trial.ledger.faults["pause and resume"] += 1
        trial.finish(job_id)
        assert trial.cluster.job(job_id).stalls == 0


def _pause_once(trial: Trial, job_id: str) -> bool:
    """Pause and resume the job once it has gone on; False when it was quicker."""
    before = max(0, trial.cluster.newest_checkpoint(job_id))

    def has_gone_on() -> bool:
        row = trial.cluster.job(job_id)
        return row.finished_at is not None or trial.cluster.told_step(job_id) > before

    trial.wait_until(has_gone_on, "a step since the pause")
    if not try_to_pause(trial, job_id):
        return False
    trial.client.resume(job_id)
    return True


def try_to_pause(trial: Trial, job_id: str) -> bool:
    """Pause a job and wait until it is; False when it ends before it hears of it."""
    try:
        trial.client.pause(job_id)
    except ApiError as error:
        if error.status_code != httpx.codes.CONFLICT:
            raise
        return False
    row = trial.cluster.wait_for(job_id, JobState.PAUSED, JobState.SUCCEEDED)
    return row.state is JobState.PAUSED


def submitted_again(trial: Trial) -> None:
    """F27: the same request with the same key from fifty threads makes one job."""
    jobs = [_submit_from_many_threads(trial) for _ in range(trial.scale.times)]
    trial.finish(*jobs)


def _submit_from_many_threads(trial: Trial) -> str:
    document = trial.train_document()
    model = document["spec"]["model"]

    def post(_thread: int) -> httpx.Response:
        headers = {"Idempotency-Key": model}
        return _post_until_answered(f"{trial.url}/v1/jobs", document, headers)

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(post, range(THREADS)))
    trial.ledger.faults["request sent again"] += THREADS - 1
    assert {answer.status_code for answer in answers} == {httpx.codes.CREATED}
    [job_id] = {answer.json()["id"] for answer in answers}
    trial.ledger.jobs += 1
    with trial.cluster.database.reading() as session:
        of_model = JobRow.spec["model"].as_string() == model
        assert session.scalar(select(func.count()).select_from(JobRow).where(of_model)) == 1
    return str(job_id)


def _post_until_answered(url: str, document: object, headers: dict[str, str]) -> httpx.Response:
    """409 means that the first request with the key is still under way: ask again."""
    while True:
        answer = httpx.post(url, json=document, headers=headers, timeout=60.0)
        if answer.status_code != httpx.codes.CONFLICT:
            return answer
        time.sleep(0.05)
