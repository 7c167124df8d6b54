"""One job from claim to its last row: real processes, SQLite, local objects."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.base.errors import UnavailableError
from shared.contracts.names import Desired, FailureCode, JobState, Queue
from shared.jobs.life.lifecycle import reap_expired
from shared.jobs.life.requests import request_cancel, request_pause, request_resume
from shared.jobs.program import Stop
from shared.jobs.worker.run_folder import remove_dead_runs
from shared.jobs.worker.supervisor import Supervisor
from shared.jobs.worker.workshop import Place
from shared.storage.local import LocalStore
from tests.support.job_bench import JobBench
from tests.support.programs import Script
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[JobBench]:
    made = JobBench.create(tmp_path / "data")
    yield made
    made.database.close()


class Running:
    """A supervisor in its own thread, as in a slot."""

    def __init__(self, bench: JobBench, queue: Queue = Queue.TRAINER_GPU) -> None:
        self.job = bench.claim(queue)
        self.supervisor = Supervisor(bench.workshop(), self.job, Place(num_threads=1))
        self._thread = threading.Thread(target=self.supervisor.run, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive(), "the supervisor did not end"


def wait_for_step(bench: JobBench, job_id: str, step: int) -> None:
    wait_until(lambda: bench.row(job_id).step >= step, f"step {step} of {job_id}")


def test_training_succeeds_with_checkpoints_metrics_and_log(bench: JobBench) -> None:
    job_id = bench.add_train_job(Script(steps=3, save_every=2))
    row = bench.supervise()
    assert row.state is JobState.SUCCEEDED
    assert (row.attempt, row.stalls, row.step, row.total_steps) == (1, 0, 3, 3)
    assert bench.states(job_id) == ["queued", "running", "succeeded"]
    assert bench.metric_steps(job_id) == [(1, 1), (1, 2), (1, 3)]
    assert bench.log(job_id) == ["attempt 1 begins"]
    found = bench.checkpoints(job_id)
    assert [(item.step, item.final, item.token) for item in found] == [(2, False, 1), (3, True, 1)]
    assert row.outputs == {"checkpoint": found[1].id}
    names = ["manifest.json", "model.safetensors", "state.json", "tokenizer.json"]
    assert bench.stored_keys(job_id) == [
        "report.md",
        *(f"t1/step-{step}/{name}" for step in (2, 3) for name in names),
    ]
    weights = bench.store.get_bytes(f"jobs/{job_id}/t1/step-3/model.safetensors")
    assert weights == b"weights of step 3"
    assert bench.leftovers() == []
    assert job_id in bench.changed


def test_sequence_numbers_are_given_once_and_in_order(bench: JobBench) -> None:
    job_id = bench.add_train_job(Script(steps=30))
    row = bench.supervise()
    numbers = [event.seq for event in bench.events(job_id)]
    assert numbers == sorted(set(numbers))
    num_metrics, num_logs = 30, 1
    assert row.seq == len(numbers) + num_metrics + num_logs


def test_data_job_puts_out_a_verified_artifact(bench: JobBench) -> None:
    job_id = bench.add_ingest_job(Script())
    row = bench.supervise(Queue.TOKENIZER)
    assert row.state is JobState.SUCCEEDED
    assert bench.stored_keys(job_id) == ["t1/dataset/manifest.json", "t1/dataset/part-00000.jsonl"]
    manifest = json.loads(bench.store.get_bytes(f"jobs/{job_id}/t1/dataset/manifest.json"))
    assert manifest["id"] == row.outputs["dataset"]
    assert manifest["files"][0]["bytes"] == len('{"text": "hello"}\n')


def test_crash_resumes_from_the_last_committed_checkpoint(bench: JobBench) -> None:
    job_id = bench.add_train_job(Script(steps=5, save_every=2, crash_at=4))
    first = bench.supervise()
    assert (first.state, first.stalls) == (JobState.QUEUED, 1)
    assert [item.step for item in bench.checkpoints(job_id)] == [2]
    second = bench.supervise()
    assert (second.state, second.attempt, second.stalls) == (JobState.SUCCEEDED, 2, 0)
    assert bench.metric_steps(job_id) == [(1, 1), (1, 2), (1, 3), (2, 3), (2, 4), (2, 5)]
    reasons = [event.data["reason"] for event in bench.events(job_id) if "reason" in event.data]
    assert reasons == [
        "The process was killed by SIGKILL, as the kernel does when memory runs out. "
        "Its last lines:\n  attempt 1 begins"
    ]


def test_poison_fails_after_three_stalls_with_its_last_lines(bench: JobBench) -> None:
    job_id = bench.add_train_job(Script(always_crash=True))
    states = [bench.supervise().state for _ in range(3)]
    assert states == [JobState.QUEUED, JobState.QUEUED, JobState.FAILED]
    row = bench.row(job_id)
    assert (row.error_code, row.attempt, row.stalls) == (FailureCode.CRASHED, 3, 3)
    assert row.error_message is not None
    assert "The process ended with exit code 1." in row.error_message
    assert "RuntimeError: scripted crash" in row.error_message
    assert bench.leftovers() == []


def test_mistake_of_the_user_fails_at_once(bench: JobBench) -> None:
    job_id = bench.add_ingest_job(Script(fail="line 7 is not JSON"))
    row = bench.supervise(Queue.TOKENIZER)
    assert (row.state, row.attempt) == (JobState.FAILED, 1)
    error = (row.error_code, row.error_message, row.error_hint)
    assert error == (FailureCode.BAD_DATA, "line 7 is not JSON", "scripted hint")
    assert bench.stored_keys(job_id) == []


def test_missing_output_is_a_stall(bench: JobBench) -> None:
    bench.add_ingest_job(Script(skip_output=True))
    row = bench.supervise(Queue.TOKENIZER)
    assert (row.state, row.stalls) == (JobState.QUEUED, 1)


def test_running_job_is_cancelled(bench: JobBench, tmp_path: Path) -> None:
    job_id = bench.add_train_job(Script(steps=9, hold_at=3, gate=str(tmp_path / "gate")))
    running = Running(bench)
    wait_for_step(bench, job_id, 2)
    with bench.database.transaction() as session:
        request_cancel(session, job_id)
    running.finish()
    row = bench.row(job_id)
    assert (row.state, row.step, row.desired) == (JobState.CANCELLED, 2, Desired.CANCEL)
    assert bench.leftovers() == []


def test_process_that_ignores_a_cancel_is_killed(bench: JobBench, tmp_path: Path) -> None:
    script = Script(steps=9, hold_at=3, gate=str(tmp_path / "gate"), ignore_stop=True)
    job_id = bench.add_train_job(script)
    running = Running(bench)
    wait_for_step(bench, job_id, 2)
    with bench.database.transaction() as session:
        request_cancel(session, job_id)
    running.finish()
    assert bench.row(job_id).state is JobState.CANCELLED


def test_pause_stores_a_checkpoint_and_resume_goes_on(bench: JobBench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = Script(steps=6, save_every=100, hold_at=4, gate=str(gate))
    job_id = bench.add_train_job(script)
    running = Running(bench)
    wait_for_step(bench, job_id, 3)
    with bench.database.transaction() as session:
        request_pause(session, job_id)
    running.finish()
    row = bench.row(job_id)
    assert (row.state, row.stalls) == (JobState.PAUSED, 0)
    assert [item.step for item in bench.checkpoints(job_id)] == [4]
    with bench.database.transaction() as session:
        request_resume(session, job_id)
    gate.touch()
    assert bench.supervise().state is JobState.SUCCEEDED
    assert bench.metric_steps(job_id) == [*((1, step) for step in range(1, 5)), (2, 5), (2, 6)]


def test_drain_gives_the_job_back_without_a_stall(bench: JobBench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job_id = bench.add_train_job(Script(steps=6, save_every=100, hold_at=4, gate=str(gate)))
    running = Running(bench)
    wait_for_step(bench, job_id, 3)
    running.supervisor.control.ask(Stop.DRAIN)
    running.finish()
    row = bench.row(job_id)
    assert (row.state, row.stalls, row.lease_owner) == (JobState.QUEUED, 0, None)
    assert [item.step for item in bench.checkpoints(job_id)] == [4]
    gate.touch()
    assert bench.supervise().state is JobState.SUCCEEDED


def test_stop_from_before_the_process_needs_no_process(bench: JobBench) -> None:
    job_id = bench.add_train_job(Script())
    supervisor = Supervisor(bench.workshop(), bench.claim(), Place(num_threads=1))
    supervisor.control.ask(Stop.DRAIN)
    supervisor.run()
    assert bench.row(job_id).state is JobState.QUEUED
    assert bench.log(job_id) == []


def test_hung_process_is_found_out_killed_and_tried_again(tmp_path: Path) -> None:
    bench = JobBench.create(tmp_path / "data", time_factor=0.01)
    job_id = bench.add_train_job(Script(steps=8, hang_at=6))
    row = bench.supervise()
    assert (row.state, row.stalls) == (JobState.QUEUED, 1)
    reason = next(event.data["reason"] for event in bench.events(job_id) if "reason" in event.data)
    assert "and was killed" in reason
    assert "Current thread" in reason  # where it hung
    assert bench.supervise().state is JobState.SUCCEEDED
    bench.database.close()


def test_process_that_leaves_slowly_after_its_last_checkpoint_is_not_hung(tmp_path: Path) -> None:
    bench = JobBench.create(tmp_path / "data", time_factor=0.03)  # 3.6 s of silence while it trains
    bench.add_train_job(Script(steps=6, save_every=100, linger=4.5))
    row = bench.supervise()
    assert (row.state, row.attempt, row.stalls) == (JobState.SUCCEEDED, 1, 0)
    bench.database.close()


def test_stale_token_kills_the_process_and_writes_nothing(bench: JobBench, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job_id = bench.add_train_job(Script(steps=6, hold_at=3, gate=str(gate)))
    running = Running(bench)
    wait_until(lambda: len(bench.checkpoints(job_id)) == 2, "two checkpoints")
    with bench.database.transaction() as session:  # long after its lease, as a leader sees it
        row = bench.row(job_id)
        assert row.lease_expires_at is not None
        reaped = reap_expired(session, row.lease_expires_at.replace(year=9998))
    assert reaped == [job_id]
    seq = bench.row(job_id).seq
    gate.touch()  # from here on the old process would write again
    running.finish()
    after = bench.row(job_id)
    assert (after.state, after.seq, after.token) == (JobState.QUEUED, seq, 2)
    assert [item.token for item in bench.checkpoints(job_id)] == [1, 1]
    assert bench.leftovers() == []


def test_grandchildren_do_not_outlive_the_job(bench: JobBench, tmp_path: Path) -> None:
    script = Script(steps=2, gate=str(tmp_path / "gate"), stranger=True)
    bench.add_train_job(script)
    assert bench.supervise().state is JobState.SUCCEEDED
    pid = int((tmp_path / "stranger").read_text())
    wait_until(lambda: _is_gone(pid), "the end of the grandchild")


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_new_attempt_removes_what_others_of_the_job_left(bench: JobBench) -> None:
    job_id = bench.add_train_job(Script(steps=1))
    other = bench.settings.data_dir / "runs" / job_id / "t0" / "spool"
    other.mkdir(parents=True)
    (other / "old").touch()
    assert bench.supervise().state is JobState.SUCCEEDED
    assert bench.leftovers() == []


def test_folders_of_dead_attempts_are_removed_and_living_ones_stay(bench: JobBench) -> None:
    job_id = bench.add_train_job(Script())
    job = bench.claim()
    runs = bench.settings.data_dir / "runs"
    for name in (f"{job_id}/t{job.token}", f"{job_id}/t0", "job_unknown/t1"):
        (runs / name).mkdir(parents=True)
    removed = remove_dead_runs(bench.database, bench.settings.data_dir)
    assert removed == [runs.resolve() / f"{job_id}/t0", runs.resolve() / "job_unknown/t1"]
    assert bench.leftovers() == [job_id, f"{job_id}/t{job.token}"]


def test_secrets_of_the_worker_do_not_reach_the_process(
    bench: JobBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RYANGPT_API_TOKEN", "not for programs")
    job_id = bench.add_train_job(Script(steps=1, show_settings=True))
    row = bench.supervise()
    assert row.state is JobState.SUCCEEDED
    assert bench.log(job_id) == ["attempt 1 begins", "settings: []"]


def test_damaged_input_is_a_stall_that_names_it(bench: JobBench) -> None:
    job_id = bench.add_train_job(Script())
    key = next(key for key in bench.store.list_keys("jobs/") if key.endswith(".bin"))
    bench.store.put_bytes(key, b"other")
    assert bench.supervise().state is JobState.QUEUED
    reason = next(event.data["reason"] for event in bench.events(job_id) if "reason" in event.data)
    assert reason == f"{key} has 5 bytes; its manifest says 2000."


def test_report_is_there_when_the_job_has_succeeded(bench: JobBench) -> None:
    job_id = bench.add_train_job(Script(steps=2))
    job = bench.claim()
    seen: list[str] = []

    def render(_database: object, reported_id: str) -> str:
        seen.append(bench.row(reported_id).state)
        return f"# Report of {reported_id}"

    Supervisor(bench.workshop(render_report=render), job, Place(num_threads=1)).run()
    assert bench.row(job_id).state is JobState.SUCCEEDED
    assert seen == ["running"]
    assert bench.store.get_bytes(f"jobs/{job_id}/report.md") == f"# Report of {job_id}".encode()


def test_report_that_fails_does_not_fail_the_job(bench: JobBench) -> None:
    job_id = bench.add_train_job(Script(steps=2))

    def render(_database: object, _job_id: str) -> str:
        raise ZeroDivisionError

    workshop = bench.workshop(render_report=render)
    Supervisor(workshop, bench.claim(), Place(num_threads=1)).run()
    assert bench.row(job_id).state is JobState.SUCCEEDED
    assert bench.notices(job_id) == ["The report could not be made; the worker's log says why."]


def test_retention_deletes_the_objects_it_gives_up(bench: JobBench) -> None:
    job_id = bench.add_train_job(Script(steps=6, patient=True), keep_checkpoints=2, publish="never")
    assert bench.supervise().state is JobState.SUCCEEDED
    assert [item.step for item in bench.checkpoints(job_id)] == [5, 6]
    checkpoints = {key.split("/")[1] for key in bench.stored_keys(job_id) if "/" in key}
    assert checkpoints == {"step-5", "step-6"}


class FlakyStore(LocalStore):
    """Away for a number of uploads."""

    def __init__(self, root: Path, *, failures: int) -> None:
        super().__init__(root)
        self.failures = failures

    def put_file(self, key: str, path: Path) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise UnavailableError("the store is away")
        super().put_file(key, path)


def test_job_waits_out_an_outage_of_the_store(bench: JobBench) -> None:
    job_id = bench.add_train_job(Script(steps=2, save_every=2))
    bench.store = FlakyStore(bench.settings.data_dir / "objects", failures=3)
    row = bench.supervise()
    assert (row.state, row.stalls) == (JobState.SUCCEEDED, 0)
    assert [item.step for item in bench.checkpoints(job_id)] == [2]
    assert bench.notices(job_id) == ["Checkpoint of step 2 must wait: the store is away"]


def test_full_spool_lets_the_newest_checkpoint_replace_an_older_one(
    bench: JobBench, tmp_path: Path
) -> None:
    """Step 1 is under way and the store away when 2 and 3 come; 2 gives way."""
    gate = tmp_path / "gate"
    job_id = bench.add_train_job(Script(steps=3, hold_at=2, gate=str(gate)))
    store = FlakyStore(bench.settings.data_dir / "objects", failures=1_000_000)
    bench.store = store
    running = Running(bench)
    waiting = "Checkpoint of step 1 must wait: the store is away"
    wait_until(lambda: waiting in bench.notices(job_id), "the first upload")
    gate.touch()
    spool = bench.settings.data_dir / "runs" / job_id / "t1" / "spool"
    wait_until(
        lambda: sorted(path.name for path in spool.glob("step-*")) == ["step-1", "step-3"],
        "the replacement of step 2",
    )
    store.failures = 0
    running.finish()
    assert bench.row(job_id).state is JobState.SUCCEEDED
    assert [item.step for item in bench.checkpoints(job_id)] == [1, 3]
    replaced = "The checkpoint of step 2 was replaced before it could be stored."
    assert bench.notices(job_id) == [waiting, replaced]


def test_cancel_gives_up_an_upload_that_waits(bench: JobBench) -> None:
    job_id = bench.add_train_job(Script(steps=1))
    bench.store = FlakyStore(bench.settings.data_dir / "objects", failures=1_000_000)
    running = Running(bench)
    wait_until(lambda: bench.row(job_id).phase == "uploading", "the upload")
    with bench.database.transaction() as session:
        request_cancel(session, job_id)
    running.finish()
    assert bench.row(job_id).state is JobState.CANCELLED
    assert bench.checkpoints(job_id) == []
