"""`python -m tests.faults.chaos`: every class of faults at true durations, and a report of it.

Platforms run side by side, each driven by a process of its own, since most faults are long waits.
The report is written anew with every result, so that a run that is cut short leaves one too; with
`--only` the other classes keep the results they had.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from shared.base.process import die_with_parent
from tests.faults.catalogue import SUITES, Platform, Suite, inject, undisturbed
from tests.faults.cluster import ROOT, Cluster, running_cluster
from tests.faults.ledger import Ledger
from tests.faults.report import Report
from tests.faults.trial import Scale

POLL_SECONDS = 2.0
RESULTS = "results.jsonl"


def main() -> int:
    """Run all platforms, or with `--platform` the one; exit with 1 when something did not hold."""
    arguments = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    suite = SUITES[arguments.suite]
    chosen = _chosen(suite, arguments.only)
    if arguments.platform:
        [platform] = [known for known in chosen if known.name == arguments.platform]
        _drive(platform, suite, arguments.folder)
        return 0
    wanted = sum(len(platform.scenarios) for platform in suite.platforms)
    report = Report(is_kept=arguments.suite == "full", scale=suite.scale, wanted=wanted)
    if arguments.only:
        report.recall()
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=arguments.folder))
    is_good = _run_all(chosen, arguments, folder, report)
    print(f"\n{report.render()}", flush=True)  # noqa: T201 - what the command is for
    if not is_good:
        _say(f"What the platforms wrote is kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Break a platform in every way, for an hour.")
    parser.add_argument("--suite", choices=SUITES, default="full", help="quick: durations / 10")
    parser.add_argument("--only", nargs="*", default=[], help="classes (F3) or platforms to run")
    parser.add_argument("--folder", type=Path, help="where the platforms keep their files")
    parser.add_argument("--platform", help=argparse.SUPPRESS)
    return parser.parse_args()


def _chosen(suite: Suite, only: list[str]) -> list[Platform]:
    """The platforms that have something to do, each with its part of the classes."""
    chosen = []
    for platform in suite.platforms:
        scenarios = [
            scenario
            for scenario in platform.scenarios
            if not only or scenario.code in only or platform.name in only
        ]
        if scenarios:
            chosen.append(replace(platform, scenarios=tuple(scenarios)))
    return chosen


def _run_all(
    platforms: list[Platform], arguments: argparse.Namespace, folder: Path, report: Report
) -> bool:
    """Drive them side by side, keeping the report up to date; return whether everything held."""
    wanted = sum(len(platform.scenarios) for platform in platforms)
    _say(f"{wanted} classes of faults on {len(platforms)} platforms, in {folder}")
    drivers = {
        platform.name: start_driver(platform, folder, arguments.suite, only=arguments.only)
        for platform in platforms
    }
    seen: dict[str, Ledger] = {}
    broken: set[str] = set()
    try:
        while True:
            is_over = all(driver.poll() is not None for driver in drivers.values())
            for name, driver in drivers.items():
                if driver.returncode and name not in broken:
                    broken.add(name)
                    _say(f"{name} BROKE OFF with {driver.returncode}, see {log_of(name, folder)}")
            for title, ledger in read_results(folder).items():
                if title not in seen:
                    seen[title] = ledger
                    _say(_sentence(ledger))
                    report.add(ledger)
            if is_over:
                return len(seen) == wanted and all(ledger.is_good for ledger in seen.values())
            time.sleep(POLL_SECONDS)
    finally:
        for driver in drivers.values():
            driver.terminate()
        for driver in drivers.values():
            driver.wait()


def start_driver(
    platform: Platform, folder: Path, suite: str, *, only: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """A process that does everything to one platform; it ends with this one."""
    log = log_of(platform.name, folder)
    log.parent.mkdir()
    options = ["--platform", platform.name, "--folder", str(log.parent), "--suite", suite]
    options += ["--only", *only] if only else []
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.faults.chaos", *options],
            cwd=ROOT, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip


def log_of(platform: str, folder: Path) -> Path:
    """What a driver has to say about itself."""
    return folder / platform.replace(" ", "-") / "driver.log"


def _drive(platform: Platform, suite: Suite, folder: Path) -> None:
    """Everything that happens to one platform, in this process; results are appended to a file."""
    die_with_parent()
    with _platform(platform, suite.scale, folder) as cluster:
        cluster.patience = suite.patience
        expected = undisturbed(cluster)
        for scenario in platform.scenarios:
            ledger = inject(scenario, cluster, suite.scale, expected, platform=platform.name)
            with (folder / RESULTS).open("a") as results:
                results.write(json.dumps(ledger.as_dict()) + "\n")
            if ledger.failures:
                cluster.heal()


@contextmanager
def _platform(platform: Platform, scale: Scale, folder: Path) -> Iterator[Cluster]:
    clock = folder / "clock" if platform.has_clock else None
    if clock is not None:
        clock.write_text("0")
    with running_cluster(
        folder / "platform",
        shared=platform.shared,
        num_workers=platform.num_workers,
        time_factor=scale.time_factor,
        interval=scale.interval,
        clock=clock,
    ) as cluster:
        yield cluster


def read_results(folder: Path) -> dict[str, Ledger]:
    """What has been found so far, by class and platform."""
    lines = [
        line
        for path in folder.glob(f"*/{RESULTS}")
        for line in path.read_text().splitlines()
        if line.endswith("}")
    ]
    ledgers = [Ledger.from_dict(json.loads(line)) for line in lines]
    return {ledger.name: ledger for ledger in ledgers}


def _sentence(ledger: Ledger) -> str:
    verdict = "holds" if ledger.is_good else "DOES NOT HOLD"
    return (
        f"{ledger.name}: {verdict} after {ledger.faults.total()} faults, "
        f"{ledger.ended} of {ledger.jobs} jobs sound, {ledger.equal} of {ledger.compared} "
        f"bit-equal, {ledger.seconds:.0f} s"
    )


def _say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
