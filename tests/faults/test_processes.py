"""Processes die by kill -9; every job ends once, with the bits it would have had."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.contracts.names import JobState
from tests.faults.cluster import PATIENCE_SECONDS, STEPS, Cluster, running_cluster
from tests.faults.history import Result, check_history, result_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
TIMES = 3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("faults")) as running:
        yield running


@pytest.fixture(scope="module")
def expected(cluster: Cluster) -> Result:
    """What the job makes when nothing happens to it."""
    job_id = cluster.submit()
    cluster.wait_for(job_id, JobState.SUCCEEDED)
    check_history(cluster, job_id)
    result = result_of(cluster, job_id)
    assert list(result.losses) == list(range(5, STEPS + 1, 5))
    return result


def check_success(cluster: Cluster, job_id: str, expected: Result, *, attempts: int) -> None:
    row = cluster.wait_for(job_id, JobState.SUCCEEDED)
    assert row.attempt == attempts
    check_history(cluster, job_id)
    assert result_of(cluster, job_id) == expected


def test_kill_9_of_the_training_process(cluster: Cluster, expected: Result) -> None:
    job_id, step = cluster.submit(), -1
    for _ in range(TIMES):
        process = cluster.job_process()
        step = cluster.wait_for_checkpoint(job_id, after=step)
        process.kill()
        process.wait(PATIENCE_SECONDS)
    check_success(cluster, job_id, expected, attempts=TIMES + 1)


def test_kill_9_of_the_worker(cluster: Cluster, expected: Result) -> None:
    job_id, step = cluster.submit(), -1
    for _ in range(TIMES):
        step = cluster.wait_for_checkpoint(job_id, after=step)
        cluster.kill("trainer")
        cluster.start("trainer")
    check_success(cluster, job_id, expected, attempts=TIMES + 1)


def test_kill_9_of_the_leader(cluster: Cluster, expected: Result) -> None:
    job_id, step = cluster.submit(), -1
    for _ in range(TIMES):
        step = cluster.wait_for_checkpoint(job_id, after=step)
        cluster.kill("api")
        cluster.start("api")
    check_success(cluster, job_id, expected, attempts=1)
