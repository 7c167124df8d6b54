"""Every class of faults, all durations divided by ten: `make chaos` does the same without that.

Two platforms are driven side by side, from the first test on; each test waits for its result.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults import catalogue
from tests.faults.catalogue import SHORT, SHORT_PLATFORMS, Scenario
from tests.faults.chaos import log_of, read_results, start_driver
from tests.faults.ledger import Ledger

PATIENCE_SECONDS = 1500.0
POLL_SECONDS = 0.2
pytestmark = [pytest.mark.integration, pytest.mark.timeout(2 * PATIENCE_SECONDS)]
MOUNT = ["unshare", "--user", "--map-root-user", "--mount", "true"]


@dataclass(frozen=True, slots=True)
class Run:
    """Both platforms, at work."""

    folder: Path
    drivers: dict[str, subprocess.Popen[bytes]]

    def ledger(self, platform: str, scenario: Scenario) -> Ledger:
        """Wait for what has become of a class of faults."""
        name, driver = scenario.ledger(platform).name, self.drivers[platform]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            has_ended = driver.poll() is not None
            if (ledger := read_results(self.folder).get(name)) is not None:
                return ledger
            log = log_of(platform, self.folder).read_text()
            if has_ended and "CannotStartError" in log:
                pytest.skip(f"no PostgreSQL: {log.splitlines()[-1]}")
            assert not has_ended, log
            assert time.monotonic() < deadline, log
            time.sleep(POLL_SECONDS)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Starts everything; the first failure does not keep the other classes from being tried."""
    folder = tmp_path_factory.mktemp("faults")
    drivers = {
        platform.name: start_driver(platform, folder, "short") for platform in SHORT_PLATFORMS
    }
    yield Run(folder, drivers)
    for driver in drivers.values():
        driver.terminate()
    for driver in drivers.values():
        driver.wait()


@pytest.mark.parametrize(
    ("platform", "scenario"),
    [
        pytest.param(platform.name, scenario, id=f"{scenario.code}-{scenario.run.__name__}")
        for platform in SHORT_PLATFORMS
        for scenario in platform.scenarios
    ],
)
def test_no_job_is_lost(run: Run, platform: str, scenario: Scenario) -> None:
    if scenario is catalogue.DISK_FULL and subprocess.run(MOUNT, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    ledger = run.ledger(platform, scenario)
    assert ledger.failures == []
    assert ledger.torn == 0
    assert ledger.ended == ledger.jobs > 0
    assert ledger.equal == ledger.compared
    assert ledger.faults.total() >= SHORT.times
