"""Every class of faults, all durations divided by ten: `make chaos` does the same without that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.faults import catalogue
from tests.faults.catalogue import SHORT, Scenario, inject, undisturbed
from tests.faults.cluster import Cluster, running_cluster
from tests.faults.history import Result
from tests.support.postgres import CannotStartError

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
NUM_WORKERS = 3
ONE_MACHINE = (
    catalogue.PROCESS_KILLED, catalogue.LEADER_KILLED, catalogue.POISON, catalogue.CANCELLED,
    catalogue.PAUSED, catalogue.RACES, catalogue.AGAIN,
)  # fmt: skip
SERVERS = (
    catalogue.WORKER_KILLED, catalogue.KILLED_IN_COMMIT, catalogue.WORKER_FROZEN,
    catalogue.DATABASE_RESTARTED,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform, and what a job makes there when nothing happens to it."""

    cluster: Cluster
    expected: Result

    def check(self, scenario: Scenario) -> None:
        ledger = inject(scenario, self.cluster, SHORT, self.expected, platform="")
        if ledger.failures:
            self.cluster.heal()
        assert ledger.failures == []
        assert ledger.torn == 0
        assert ledger.ended == ledger.jobs > 0
        assert ledger.equal == ledger.compared
        assert ledger.faults.total() >= SHORT.times


def _platform(factory: pytest.TempPathFactory, *, shared: bool) -> Iterator[Platform]:
    folder = factory.mktemp("faults")
    clock = folder / "clock"
    clock.write_text("0")
    with running_cluster(
        folder / "platform",
        shared=shared, num_workers=NUM_WORKERS, time_factor=SHORT.time_factor,
        interval=SHORT.interval, clock=clock,
    ) as cluster:  # fmt: skip
        expected = undisturbed(cluster)
        assert list(expected.losses) == list(range(5, cluster.steps + 1, 5))
        yield Platform(cluster, expected)


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """SQLite and folders."""
    yield from _platform(tmp_path_factory, shared=False)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """PostgreSQL and S3, and a machine for each worker."""
    try:
        yield from _platform(tmp_path_factory, shared=True)
    except CannotStartError as error:
        pytest.skip(f"no PostgreSQL: {error}")


def _name(scenario: Scenario) -> str:
    return f"{scenario.code}-{scenario.run.__name__}"


@pytest.mark.parametrize("scenario", ONE_MACHINE, ids=_name)
def test_on_one_machine(one_machine: Platform, scenario: Scenario) -> None:
    one_machine.check(scenario)


@pytest.mark.parametrize("scenario", SERVERS, ids=_name)
def test_on_servers(servers: Platform, scenario: Scenario) -> None:
    servers.check(scenario)
