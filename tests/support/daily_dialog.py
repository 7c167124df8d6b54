"""DailyDialog's archives as rows of a dialogue upload."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

ROLES = ("user", "assistant")


def dialogue_rows(archive: Path) -> list[dict[str, Any]]:
    """One `{"messages": [...]}` a dialogue, spaces before punctuation taken out."""
    with zipfile.ZipFile(archive) as files:
        name = next(name for name in files.namelist() if re.search(r"dialogues_[a-z]+\.txt$", name))
        lines = files.read(name).decode("utf-8").splitlines()
    return [{"messages": _messages(line)} for line in lines]


def write_dialogues(archive: Path, target: Path) -> Path:
    """Write the rows as JSON lines; return `target`."""
    rows = dialogue_rows(archive)
    target.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return target


def _messages(line: str) -> list[dict[str, str]]:
    turns = [_detokenise(turn.strip()) for turn in line.split("__eou__")]
    spoken = [turn for turn in turns if turn]
    return [{"role": ROLES[n % 2], "content": turn} for n, turn in enumerate(spoken)]


def _detokenise(turn: str) -> str:
    turn = re.sub(r"\s+([.,!?;:%)])", r"\1", turn)
    return re.sub(r"\s*’\s*(?=(s|t|m|d|re|ve|ll)\b)", "'", turn)
