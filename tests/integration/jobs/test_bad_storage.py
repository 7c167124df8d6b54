"""What the store does to a job: damaged checkpoints and no room left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.base.errors import UnavailableError
from shared.contracts.names import FailureCode, JobState
from shared.jobs.worker import retries
from shared.storage.local import LocalStore
from tests.support.job_bench import JobBench
from tests.support.programs import Script

pytestmark = pytest.mark.integration


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[JobBench]:
    made = JobBench.create(tmp_path / "data")
    yield made
    made.database.close()


def test_damaged_checkpoint_gives_way_to_the_one_before(bench: JobBench) -> None:
    job_id = bench.add_train_job(Script(steps=5, crash_at=4, patient=True))
    assert bench.supervise().state is JobState.QUEUED
    newest = bench.checkpoints(job_id)[-1]
    bench.store.put_bytes(f"{newest.prefix}model.safetensors", b"weights of step X")
    row = bench.supervise()
    assert (row.state, row.stalls) == (JobState.QUEUED, 1)  # the crash; damage is no stall
    reason = [event.data["reason"] for event in bench.events(job_id) if "reason" in event.data][-1]
    assert reason == (
        "The last checkpoint is damaged, an earlier one is used. "
        f"{newest.prefix}model.safetensors has another sha256 than its manifest says."
    )
    assert bench.supervise().state is JobState.SUCCEEDED
    starts = [e.data["resume_step"] for e in bench.events(job_id) if "resume_step" in e.data]
    assert starts == [None, 3, 2]
    assert bench.metric_steps(job_id) == [(1, 1), (1, 2), (1, 3), (3, 3), (3, 4), (3, 5)]


def test_damage_on_the_way_is_read_again(bench: JobBench) -> None:
    job_id = bench.add_train_job(Script(steps=3, crash_at=3, patient=True))
    assert bench.supervise().state is JobState.QUEUED
    bench.store = TornOnceStore(bench.settings.data_dir / "objects")
    assert bench.supervise().state is JobState.SUCCEEDED
    starts = [e.data["resume_step"] for e in bench.events(job_id) if "resume_step" in e.data]
    assert starts == [None, 2]


class TornOnceStore(LocalStore):
    """Cuts the first download of weights short."""

    torn = False

    @contextmanager
    def stream(self, key: str, *, offset: int = 0) -> Iterator[Iterator[bytes]]:
        with super().stream(key, offset=offset) as chunks:
            if key.endswith("model.safetensors") and not self.torn:
                self.torn = True
                yield iter([b"torn"])
            else:
                yield chunks


class FullStore(LocalStore):
    """Has no room for checkpoints; reports and inputs fit."""

    def put_file(self, key: str, path: Path) -> None:
        raise UnavailableError("No space left on device.", code=FailureCode.STORAGE_FULL)


def test_store_that_stays_full_fails_the_job_clean(
    bench: JobBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FULL_STORE_SECONDS", 3.0)
    job_id = bench.add_train_job(Script(steps=2, save_every=2))
    bench.store = FullStore(bench.settings.data_dir / "objects")
    row = bench.supervise()
    assert (row.state, row.error_code) == (JobState.FAILED, FailureCode.STORAGE_FULL)
    assert row.error_message == "The object store stayed full. No space left on device."
    assert row.error_hint is not None
    assert row.error_hint.startswith("Free some space in the object store, then retry")
    assert (bench.checkpoints(job_id), bench.stored_keys(job_id), bench.leftovers()) == ([], [], [])


def test_disk_that_takes_not_even_a_line_fails_the_job_clean(bench: JobBench) -> None:
    bench.add_train_job(Script(no_room=True))
    row = bench.supervise()
    assert (row.state, row.attempt) == (JobState.FAILED, 1)
    assert (row.error_code, row.error_message) == (
        FailureCode.STORAGE_FULL,
        "The worker's disk is full.",
    )
    assert row.error_hint == "Free some space in its data folder, then retry the job."
    assert bench.leftovers() == []
