"""Lines of a growing file come whole, once and in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.jobs.worker import tail as tail_module
from shared.jobs.worker.tail import Tail


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def test_unfinished_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    tail = Tail(path)
    assert tail.read_lines() == []
    append(path, b"one\ntw")
    assert tail.read_lines() == [b"one"]
    append(path, b"o\n\nthree")
    assert tail.read_lines() == [b"two", b""]
    assert tail.read_rest() == [b"three"]
    assert tail.read_rest() == []


def test_letter_cut_in_two_is_put_together(tmp_path: Path) -> None:
    path = tmp_path / "log"
    content = "äöü\n".encode()
    append(path, content[:3])
    tail = Tail(path)
    assert tail.read_lines() == []
    append(path, content[3:])
    assert tail.read_lines() == [content[:-1]]


def test_large_file_comes_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = [b"%06d" % number for number in range(100_000)]
    append(path, b"\n".join(lines) + b"\n")
    tail = Tail(path)
    pieces = []
    while not tail.at_end:
        pieces.append(tail.read_lines())
    assert len(pieces) > 1
    assert [line for piece in pieces for line in piece] == lines


def test_endless_line_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_module, "MAX_LINE_BYTES", 10)
    path = tmp_path / "log"
    append(path, b"x" * 25)
    tail = Tail(path)
    assert tail.read_lines() == [b"x" * 25]
    append(path, b"y\n")
    assert tail.read_lines() == [b"y"]
