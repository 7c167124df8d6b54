"""Lines reach the database once and in order, whatever happens to the database or the lines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from shared.base.errors import UnavailableError
from shared.contracts.names import JobState
from shared.contracts.progress import PhaseLine, ProgressMessage
from shared.db.session import Database
from shared.jobs.worker import relay as relay_module
from shared.jobs.worker.relay import Announced, Relay
from shared.jobs.worker.run_folder import RunFolder
from shared.jobs.worker.supervisor import Supervisor
from shared.jobs.worker.workshop import Place
from tests.support.job_bench import JobBench
from tests.support.programs import Script

pytestmark = pytest.mark.integration


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[JobBench]:
    made = JobBench.create(tmp_path / "data", time_factor=0.001)
    yield made
    made.database.close()


class AwayDatabase(Database):
    """Cannot be written to for a while."""

    def __init__(self, url: str, *, failures: int) -> None:
        super().__init__(url)
        self.failures = failures

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        if self.failures > 0:
            self.failures -= 1
            raise UnavailableError("the database is away")
        with super().transaction() as session:
            yield session


class Attempt:
    """A relay between files that the test writes and a claimed job."""

    def __init__(self, bench: JobBench) -> None:
        self.job_id = bench.add_train_job(Script())
        job = bench.claim()
        self.folder = RunFolder.of(bench.settings.data_dir, job.id, job.token)
        self.folder.create()
        self.seen: list[ProgressMessage] = []
        self.checkpoints: list[ProgressMessage] = []
        self.relay = Relay(
            database=bench.database,
            job_id=job.id,
            token=job.token,
            folder=self.folder,
            announced=Announced(
                checkpoint=self.checkpoints.append,
                output=self.checkpoints.append,
                failed=self.checkpoints.append,
                seen=self.seen.append,
                written=lambda: None,
            ),
            settings=bench.settings,
        )

    def write_events(self, content: bytes) -> None:
        with self.folder.events.open("ab") as file:
            file.write(content)

    def write_log(self, content: bytes) -> None:
        with self.folder.log.open("ab") as file:
            file.write(content)


def test_line_that_nobody_understands_is_a_notice_and_no_sign_of_life(bench: JobBench) -> None:
    attempt = Attempt(bench)
    attempt.write_events(b'{"type": "phase", "phase": "training"}\n{"type": "jump"}\nnot json\n')
    attempt.relay.take_the_rest()
    attempt.relay.flush()
    assert attempt.seen == [PhaseLine(phase="training")]
    first, second = bench.notices(attempt.job_id)
    assert first.startswith("The process wrote a line that nobody understands (Input tag 'jump'")
    assert first.endswith(': {"type": "jump"}')
    assert second.endswith(": not json")
    assert bench.row(attempt.job_id).phase == "training"


def test_lines_wait_for_the_database_and_come_once(bench: JobBench) -> None:
    database = AwayDatabase(bench.settings.resolved_database_url, failures=0)
    bench.database = database
    attempt = Attempt(bench)
    for number in range(50):
        attempt.write_log(b"line %d\n" % number)
    database.failures = 2
    attempt.relay.pump()
    attempt.relay.pump()
    assert bench.log(attempt.job_id) == []
    attempt.write_log(b"line 50\n")
    attempt.relay.take_the_rest()
    attempt.relay.flush()
    assert bench.log(attempt.job_id) == [f"line {number}" for number in range(51)]


def test_outage_of_the_database_does_not_disturb_the_training(tmp_path: Path) -> None:
    """Heartbeats, lines, a checkpoint's commit and the last write all may meet it."""
    bench = JobBench.create(tmp_path / "data")
    bench.database.close()
    database = AwayDatabase(bench.settings.resolved_database_url, failures=0)
    bench.database = database
    job_id = bench.add_train_job(Script(steps=4, save_every=4))
    job = bench.claim()
    database.failures = 30
    Supervisor(bench.workshop(), job, Place(num_threads=1)).run()
    assert database.failures == 0
    row = bench.row(job_id)
    assert (row.state, row.attempt, row.stalls) == (JobState.SUCCEEDED, 1, 0)
    assert bench.metric_steps(job_id) == [(1, 1), (1, 2), (1, 3), (1, 4)]
    assert [item.step for item in bench.checkpoints(job_id)] == [4]
    database.close()


def test_output_is_capped_and_the_cap_is_told(
    bench: JobBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "MAX_LOG_LINES", 5)
    attempt = Attempt(bench)
    attempt.write_log(b"".join(b"line %d\n" % number for number in range(9)) + b"the end")
    attempt.relay.take_the_rest()
    attempt.relay.flush()
    assert bench.log(attempt.job_id) == [f"line {number}" for number in range(5)]
    assert bench.notices(attempt.job_id) == ["Only the first 5 lines of output are kept."]
    assert list(attempt.relay.last_log_lines)[-2:] == ["line 8", "the end"]
