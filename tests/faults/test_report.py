"""What the long run writes down: ledgers that survive the way through a file, and their table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults import report
from tests.faults.catalogue import FULL
from tests.faults.ledger import Ledger
from tests.faults.report import LOST_WORK, SAVE_WORST, Report


def ledger() -> Ledger:
    made = Ledger(code="F1", title="kill -9 (processes)", jobs=2, ended=2, compared=2, equal=2)
    made.at, made.seconds, made.load, made.code_version = "2026-01-02 03:04", 120.0, 7.2, "abc"
    made.faults["training process"] += 3
    made.faults["worker"] += 1
    made.measure(LOST_WORK, 0.25, 1.0)
    made.measure(LOST_WORK, 0.75, 1.0)
    return made


def test_a_ledger_survives_being_written_down() -> None:
    written = json.dumps(ledger().as_dict())
    assert Ledger.from_dict(json.loads(written)) == ledger()


def test_the_table_shows_counts_and_worst_figures() -> None:
    bad = Ledger(code="save", title="saves", jobs=1, failures=["it broke"])
    bad.faults["worker"] += 1
    bad.measure(SAVE_WORST, 0.0295)
    table = Report(is_kept=False, scale=FULL, wanted=3)
    table.add(bad)
    table.add(Ledger(code="F1", title="kill -9 (processes)"))
    table.add(ledger())  # again, in place of the one before
    lines = table.render().splitlines()
    assert "**Not complete: 1 classes of faults have no result here.**" in lines
    assert "| jobs submitted | 3 |" in lines
    assert "| faults injected | 5: 3 x training process, 2 x worker |" in lines
    assert "| jobs lost, run twice or otherwise unsound | 1 |" in lines
    assert "| worst work lost, in checkpoint intervals | 0.75 |" in lines
    assert "| the longest of these | 0.0295 |" in lines
    assert (
        "| F1 kill -9 (processes) | 2 | 3 x training process, 1 x worker | 2 | 2 of 2 | 0, 0 | "
        f"{LOST_WORK}: 0.75 (<= 1) | yes | 2026-01-02 03:04 | 2 | 7 | abc |" in lines
    )
    assert lines[-6:] == ["### save saves", "", "```", "it broke", "```", ""]


def test_what_was_found_before_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "chaos.json")
    monkeypatch.setattr(report, "REPORT", tmp_path / "chaos.md")
    first = Report(is_kept=True, scale=FULL, wanted=2)
    first.add(ledger())
    later = Report(is_kept=True, scale=FULL, wanted=2)
    later.recall()
    assert later.ledgers == {"F1 kill -9 (processes)": ledger()}
    later.add(Ledger(code="F2", title="(workers)"))
    assert (tmp_path / "chaos.md").read_text() == later.render()
    assert "Not complete" not in later.render()
