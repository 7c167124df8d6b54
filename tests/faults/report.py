"""The table that `make chaos` prints and writes: headline figures, then one row a class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from shared.base.version import code_version
from tests.faults.ledger import Figure, Ledger
from tests.faults.trial import Scale

DETECTION = "seconds until a fault is found"
LOST_WORK = "checkpoint intervals of work lost"
SAVE_MEDIAN = "seconds a save blocks training (median)"
SAVE_WORST = "seconds a save blocks training (worst)"
STEP_RATIO = "step time, p99 over median, while uploading"


def render(ledgers: Sequence[Ledger], scale: Scale, *, seconds: float, pending: int) -> str:
    """The whole report as Markdown. `pending` says how many classes have no result yet."""
    lines = ["# Faults injected, and what they cost", ""]
    if pending:
        lines += [f"**Not complete: {pending} classes of faults have no result here.**", ""]
    lines += [
        "Real processes on real servers: see [reliability.md](reliability.md) and `tests/faults/`.",
        "",
        f"Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC after {seconds / 60:.0f} minutes by "
        f"`make chaos{' QUICK=1' if scale.time_factor < 1 else ''}`, version {code_version()}, "
        f"{os.cpu_count()} CPU cores. All durations are multiplied by {scale.time_factor:g}.",
        "",
        *_headline(ledgers),
        "",
        "| class | jobs | faults | sound | bit-equal | read, torn | worst figures | holds |",
        "|---|---|---|---|---|---|---|---|",
        *map(_row, sorted(ledgers, key=_order)),
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
        f"{ledger.code} {ledger.title}", str(ledger.jobs), faults, str(ledger.ended),
        f"{ledger.equal} of {ledger.compared}", f"{ledger.served}, {ledger.torn}", figures,
        "yes" if ledger.is_good else "**no**",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _shown(name: str, figure: Figure) -> str:
    bound = "" if figure.bound is None else f" (<= {figure.bound:g})"
    return f"{name}: {figure.worst:.2f}{bound}"


def _failures(ledgers: Sequence[Ledger]) -> list[str]:
    failed = [ledger for ledger in ledgers if ledger.failures]
    lines = ["", "## What did not hold", ""] if failed else []
    for ledger in failed:
        lines += [f"### {ledger.code} {ledger.title}", ""]
        for failure in ledger.failures:
            lines += ["```", failure.strip(), "```", ""]
    return lines


def write(path: Path, text: str) -> None:
    """Replace the report at once, so that it can be read at any time."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)
