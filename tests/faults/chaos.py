"""`python -m tests.faults.chaos`: every class of faults at true durations, and a report of it.

Platforms run side by side, each driven by a process of its own, since most faults are long waits.
The report is written anew with every result, so that a run that is cut short leaves one too.
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
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.catalogue import FULL, PLATFORMS, QUICK, Platform, inject, undisturbed
from tests.faults.cluster import ROOT, Cluster, running_cluster
from tests.faults.ledger import Ledger
from tests.faults.report import render, write
from tests.faults.trial import Scale

REPORT = ROOT / "docs" / "chaos-report.md"
POLL_SECONDS = 2.0
PATIENCE_SECONDS = 3600.0
"""An hour: what is slow because the machine is busy is no failure."""
RESULTS = "results.jsonl"


def main() -> int:
    """Run all platforms, or with `--platform` the one; exit with 1 when something did not hold."""
    arguments = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    scale = QUICK if arguments.quick else FULL
    if arguments.platform:
        [platform] = [known for known in PLATFORMS if known.name == arguments.platform]
        _drive(platform, scale, arguments.folder)
        return 0
    report = arguments.report or (None if arguments.quick else REPORT)
    chosen = [p for p in PLATFORMS if not arguments.only or p.name in arguments.only]
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=arguments.folder))
    ledgers = _run_all(chosen, scale, folder, report, quick=arguments.quick)
    wanted = sum(len(platform.scenarios) for platform in chosen)
    if len(ledgers) < wanted or not all(ledger.is_good for ledger in ledgers):
        _say(f"What the platforms wrote is kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Break a platform in every way, for hours.")
    parser.add_argument("--quick", action="store_true", help="a tenth of all durations")
    parser.add_argument("--only", nargs="*", default=[], help="platforms to run")
    parser.add_argument("--report", type=Path, help=f"where to write (default: {REPORT})")
    parser.add_argument("--folder", type=Path, help="where the platforms keep their files")
    parser.add_argument("--platform", help=argparse.SUPPRESS)
    return parser.parse_args()


def _run_all(
    platforms: list[Platform], scale: Scale, folder: Path, report: Path | None, *, quick: bool
) -> list[Ledger]:
    since = time.monotonic()
    wanted = sum(len(platform.scenarios) for platform in platforms)
    _say(f"{wanted} classes of faults on {len(platforms)} platforms, in {folder}")
    drivers = [_start(platform, folder, quick=quick) for platform in platforms]
    broken: set[int] = set()
    ledgers: list[Ledger] = []
    try:
        while True:
            is_over = all(driver.poll() is not None for driver in drivers)
            for index, driver in enumerate(drivers):
                if driver.returncode and index not in broken:
                    broken.add(index)
                    _say(f"{platforms[index].name} BROKE OFF with {driver.returncode}")
            found = _read_results(folder)
            for ledger in found[len(ledgers) :]:
                _say(_sentence(ledger))
            if len(found) > len(ledgers) or is_over:
                ledgers = found
                pending = wanted - len(ledgers)
                text = render(ledgers, scale, seconds=time.monotonic() - since, pending=pending)
                if report is not None:
                    write(report, text)
            if is_over:
                print(f"\n{text}", flush=True)  # noqa: T201 - what the command is for
                return ledgers
            time.sleep(POLL_SECONDS)
    finally:
        for driver in drivers:
            driver.terminate()
        for driver in drivers:
            driver.wait()


def _start(platform: Platform, folder: Path, *, quick: bool) -> subprocess.Popen[bytes]:
    own = folder / platform.name.replace(" ", "-")
    own.mkdir()
    options = ["--platform", platform.name, "--folder", str(own), *(["--quick"] if quick else [])]
    with (own / "driver.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.faults.chaos", *options],
            cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip


def _drive(platform: Platform, scale: Scale, folder: Path) -> None:
    """Everything that happens to one platform, in this process; results are appended to a file."""
    with _platform(platform, scale, folder) as cluster:
        cluster.patience = PATIENCE_SECONDS
        expected = undisturbed(cluster)
        for scenario in platform.scenarios:
            ledger = inject(scenario, cluster, scale, expected, platform=platform.name)
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


def _read_results(folder: Path) -> list[Ledger]:
    lines = [
        line
        for path in folder.glob(f"*/{RESULTS}")
        for line in path.read_text().splitlines()
        if line.endswith("}")
    ]
    return [Ledger.from_dict(json.loads(line)) for line in lines]


def _sentence(ledger: Ledger) -> str:
    verdict = "holds" if ledger.is_good else "DOES NOT HOLD"
    return (
        f"{ledger.code} {ledger.title}: {verdict} after {ledger.faults.total()} faults, "
        f"{ledger.ended} of {ledger.jobs} jobs sound, {ledger.equal} of {ledger.compared} "
        f"bit-equal, {ledger.seconds:.0f} s"
    )


def _say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
