"""A job on two slots of a real trainer: worker, supervisor, launcher, two processes, one curve."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ryangpt.redis_server import start_redis
from services.trainer.checkpoint import TrainerState
from shared.base.errors import InvalidInputError
from shared.base.settings import child_environment
from shared.contracts.jobs import TrainJob
from shared.contracts.manifest import STATE_JSON
from shared.contracts.names import JobState, Queue
from shared.db.repositories.workers import list_workers
from shared.text.token_set import TokenSplit
from tests.support.job_bench import JobBench
from tests.support.training import TINY, tiny_tokens
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

PATIENCE_SECONDS = 300.0
STEPS = 6
SIZE = {"batch_size": 6, "max_steps": STEPS, "eval_interval": STEPS}
"""Twelve sequences a step, which one, two and three processes can share."""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[JobBench]:
    redis = start_redis(tmp_path / "redis")
    made = JobBench.create(tmp_path / "data", redis_url=redis.url)
    yield made
    made.database.close()
    redis.stop()


@pytest.fixture
def trainer(bench: JobBench) -> Iterator[subprocess.Popen[bytes]]:
    """The trainer service with two slots on a machine without a GPU."""
    settings = bench.settings
    environment = child_environment(
        RYANGPT_DATA_DIR=str(settings.data_dir),
        RYANGPT_REDIS_URL=settings.redis_url.get_secret_value(),
        RYANGPT_TIME_FACTOR=str(settings.time_factor),
        RYANGPT_GPU_SLOTS="2",
        RYANGPT_NUM_THREADS="2",
    )
    with (settings.data_dir / "trainer.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.trainer"], env=environment, stdout=log, stderr=log
        )
    yield process
    process.terminate()
    process.wait(PATIENCE_SECONDS)


def test_two_processes_learn_what_one_does(
    bench: JobBench, trainer: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    folder = tiny_tokens(tmp_path / "tokens")
    tokens = bench.store_tokens(folder, TokenSplit(folder, "train").meta)
    wait_until(lambda: slots_offered(bench) == [2], "the worker", seconds=PATIENCE_SECONDS)

    def submit(num_gpus: int) -> str:
        spec = {**TINY, "tokens": tokens, "num_gpus": num_gpus, **SIZE}
        return bench.submit(TrainJob.model_validate({"kind": "train", "spec": spec}))

    with pytest.raises(InvalidInputError, match="largest worker here offers 2") as refused:
        submit(3)
    assert refused.value.pointer == "/spec/num_gpus"
    together, alone = submit(2), submit(1)
    for job_id in (together, alone):
        wait_until(
            lambda job=job_id: bench.row(job).state not in (JobState.QUEUED, JobState.RUNNING),
            f"the end of {job_id}",
            seconds=PATIENCE_SECONDS,
        )
        assert bench.row(job_id).state is JobState.SUCCEEDED, bench.log(job_id)
    assert (world_size(bench, together), world_size(bench, alone)) == (2, 1)
    expected = bench.training_losses(alone)
    assert sorted(expected) == list(range(1, STEPS + 1))
    assert expected[STEPS] < expected[1] - 0.05, "nothing was learned"
    assert bench.training_losses(together) == pytest.approx(expected, abs=1e-6)


def slots_offered(bench: JobBench) -> list[int]:
    """GPU slots of each worker that has shown itself."""
    with bench.database.reading() as session:
        return [row.slots[Queue.TRAINER_GPU] for row in list_workers(session)]


def world_size(bench: JobBench, job_id: str) -> int:
    """How many processes the job's last checkpoint says it came from."""
    newest = max(bench.checkpoints(job_id), key=lambda row: row.step)
    (key,) = [key for key in bench.store.list_keys(newest.prefix) if key.endswith(STATE_JSON)]
    return TrainerState.model_validate_json(bench.store.get_bytes(key)).environment.world_size
