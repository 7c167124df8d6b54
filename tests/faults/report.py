"""The table that `make chaos` prints and writes: headline figures, then one row a class."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.base.files import write_bytes
from tests.faults.cluster import ROOT
from tests.faults.ledger import Figure, Ledger
from tests.faults.trial import Scale

REPORT = ROOT / "docs" / "chaos-report.md"
RESULTS = ROOT / "benchmarks" / "results" / "chaos.json"
DETECTION = "seconds until a fault is found"
LOST_WORK = "checkpoint intervals of work lost"
SAVE_MEDIAN = "seconds a save blocks training (median)"
SAVE_WORST = "seconds a save blocks training (worst)"
STEP_RATIO = "step time, p99 over median, while uploading"


@dataclass(slots=True, kw_only=True)
class Report:
    """All results there are, kept as JSON and shown as Markdown."""

    is_kept: bool
    """Else it is shown only: durations were divided."""
    scale: Scale
    wanted: int
    """Classes there should be results of."""
    ledgers: dict[str, Ledger] = field(default_factory=dict)

    def recall(self) -> None:
        """Begin with what was found before."""
        if RESULTS.exists() and self.is_kept:
            found = map(Ledger.from_dict, json.loads(RESULTS.read_text()))
            self.ledgers = {ledger.name: ledger for ledger in found}

    def add(self, ledger: Ledger) -> None:
        """Take in a result, in place of an older one, and keep everything."""
        self.ledgers[ledger.name] = ledger
        if self.is_kept:
            found = [one.as_dict() for one in sorted(self.ledgers.values(), key=_order)]
            write_bytes(RESULTS, json.dumps(found, indent=2).encode() + b"\n")
            write_bytes(REPORT, self.render().encode())

    def render(self) -> str:
        """The whole report as Markdown."""
        ledgers = sorted(self.ledgers.values(), key=_order)
        lines = ["# Faults injected, and what they cost", ""]
        if missing := self.wanted - len(ledgers):
            lines += [f"**Not complete: {missing} classes of faults have no result here.**", ""]
        lines += [
            "Real processes on real servers: see [reliability.md](reliability.md) and "
            "`tests/faults/`.",
            "",
            f"Made by `make chaos{'' if self.is_kept else ' QUICK=1'}` on {os.cpu_count()} CPU "
            f"cores; all durations are multiplied by {self.scale.time_factor:g}. A class may have "
            "been tried again by itself: when it ended, the load average of the quarter of an hour "
            "before, and the version are in the last columns.",
            "",
            *_headline(ledgers),
            "",
            "| class | jobs | faults | sound | bit-equal | read, torn | worst figures | holds | "
            "ended | minutes | load | version |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
            *map(_row, ledgers),
            *_failures(ledgers),
        ]
        return "\n".join(lines) + "\n"


def _headline(ledgers: Sequence[Ledger]) -> list[str]:
    faults: Counter[str] = sum((ledger.faults for ledger in ledgers), Counter())
    total = _Total(ledgers)
    return [
        "| | |",
        "|---|---|",
        f"| jobs submitted | {total.jobs} |",
        f"| faults injected | {faults.total()}: "
        + ", ".join(f"{count} x {kind}" for kind, count in faults.most_common())
        + " |",
        f"| jobs lost, run twice or otherwise unsound | {total.jobs - total.ended} |",
        f"| torn checkpoints served | {total.torn} of {total.served} versions read |",
        f"| results bit-equal to an undisturbed run | {total.equal} of {total.compared} |",
        f"| worst time until a fault is found | {_worst(ledgers, DETECTION)} s |",
        f"| worst work lost, in checkpoint intervals | {_worst(ledgers, LOST_WORK)} |",
        f"| a save of the 12.5M model blocks training, seconds (median) | "
        f"{_worst(ledgers, SAVE_MEDIAN)} |",
        f"| the longest of these | {_worst(ledgers, SAVE_WORST)} |",
        f"| step time while uploading, p99 over median | {_worst(ledgers, STEP_RATIO)} |",
    ]


class _Total:
    def __init__(self, ledgers: Sequence[Ledger]) -> None:
        self.jobs = sum(ledger.jobs for ledger in ledgers)
        self.ended = sum(ledger.ended for ledger in ledgers)
        self.equal = sum(ledger.equal for ledger in ledgers)
        self.compared = sum(ledger.compared for ledger in ledgers)
        self.served = sum(ledger.served for ledger in ledgers)
        self.torn = sum(ledger.torn for ledger in ledgers)


def _worst(ledgers: Sequence[Ledger], name: str) -> str:
    found = [ledger.figures[name].worst for ledger in ledgers if name in ledger.figures]
    return f"{max(found):.3g}" if found else "none measured"


def _order(ledger: Ledger) -> tuple[int, str]:
    digits = "".join(filter(str.isdigit, ledger.code))
    return int(digits or 0), ledger.title


def _row(ledger: Ledger) -> str:
    faults = ", ".join(f"{count} x {kind}" for kind, count in ledger.faults.items())
    figures = "; ".join(_shown(name, figure) for name, figure in ledger.figures.items())
    cells = [
        ledger.name, str(ledger.jobs), faults, str(ledger.ended),
        f"{ledger.equal} of {ledger.compared}", f"{ledger.served}, {ledger.torn}", figures,
        "yes" if ledger.is_good else "**no**", ledger.at, f"{ledger.seconds / 60:.0f}",
        f"{ledger.load:.0f}", ledger.code_version,
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _shown(name: str, figure: Figure) -> str:
    bound = "" if figure.bound is None else f" (<= {figure.bound:g})"
    return f"{name}: {figure.worst:.2f}{bound}"


def _failures(ledgers: Sequence[Ledger]) -> list[str]:
    failed = [ledger for ledger in ledgers if ledger.failures]
    lines = ["", "## What did not hold", ""] if failed else []
    for ledger in failed:
        lines += [f"### {ledger.name}", ""]
        for failure in ledger.failures:
            lines += ["```", failure.strip(), "```", ""]
    return lines
