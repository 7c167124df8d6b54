"""Reading uploads: plain or gzip, and errors that say where."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from services.tokenizer import input_file
from services.tokenizer.input_file import InputFile, Line
from shared.base.errors import JobFailedError


def file_of(folder: Path, content: bytes) -> InputFile:
    path = folder / "upload"
    path.write_bytes(content)
    return InputFile(path, "notes.txt")


def texts(file: InputFile, max_line_bytes: int = 1000) -> list[str]:
    return [line.text for line in file.lines(max_line_bytes)]


def failure(file: InputFile) -> JobFailedError:
    with pytest.raises(JobFailedError) as caught:
        texts(file)
    return caught.value


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_lines_of_plain_and_gzip_files(tmp_path: Path, pack: type[bytes]) -> None:
    file = file_of(tmp_path, pack("\ufeffäb\r\n\nc 東\nlast".encode()))
    assert texts(file) == ["äb", "", "c 東", "last"]
    assert file.bytes_read == file.total_bytes


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    assert texts(file_of(tmp_path, b"")) == []


def test_a_long_line_comes_in_parts_that_never_break_a_character(tmp_path: Path) -> None:
    file = file_of(tmp_path, "aé東😀b\nc".encode())
    assert list(file.lines(4)) == [
        Line(number=1, text="aé", ends=False),
        Line(number=1, text="東", ends=False),
        Line(number=1, text="😀b", ends=True),
        Line(number=2, text="c", ends=True),
    ]


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    error = failure(file_of(tmp_path, "é\n".encode() + b"caf\xe9 au lait\n"))
    assert error.message == "notes.txt is not UTF-8: byte 0xe9 at offset 6, line 2."
    assert error.code == "bad_data"
    assert "iconv" in (error.hint or "")


def test_bad_bytes_behind_a_part_of_a_long_line(tmp_path: Path) -> None:
    file = file_of(tmp_path, "abc東".encode()[:5] + b"x\n")
    with pytest.raises(JobFailedError, match="byte 0xe6 at offset 3, line 1"):
        list(file.lines(4))


def test_a_file_that_ends_inside_a_character(tmp_path: Path) -> None:
    error = failure(file_of(tmp_path, b"ab\n" + "東".encode()[:2]))
    assert error.message == "notes.txt is not UTF-8: byte 0xe6 at offset 3, line 2."


def test_a_file_that_ends_inside_a_character_at_the_limit(tmp_path: Path) -> None:
    file = file_of(tmp_path, b"ab" + "東".encode()[:2])
    with pytest.raises(JobFailedError, match="byte 0xe6 at offset 2, line 1"):
        list(file.lines(4))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"text\0more", "is a binary file: there is a NUL byte at offset 4."),
        (b"PK\x03\x04....", "is a ZIP archive (or an Office document), not UTF-8 text."),
        (b"%PDF-1.7", "is a PDF, not UTF-8 text."),
        ("hello".encode("utf-16"), "is UTF-16 text, not UTF-8 text."),
        (gzip.compress(b"\x7fELF\0\0"), "is a binary file: there is a NUL byte at offset 4."),
    ],
)
def test_binary_files(tmp_path: Path, content: bytes, what: str) -> None:
    error = failure(file_of(tmp_path, content))
    assert error.message == f"notes.txt {what}"
    assert error.hint == "Send UTF-8 text, plain, gzip or bzip2."


def test_a_cut_gzip_file(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b"%d lines\n" % n for n in range(5000)))
    error = failure(file_of(tmp_path, whole[: len(whole) // 2]))
    assert error.message.startswith("notes.txt is a damaged gzip file: ")


def test_a_gzip_file_with_a_flipped_bit(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(b"some words\n" * 500))
    whole[-5] ^= 1
    error = failure(file_of(tmp_path, bytes(whole)))
    assert error.message.startswith("notes.txt is a damaged gzip file: CRC check failed")


def test_an_absurdly_compressed_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = gzip.compress(b"a" * 99 + b"\n" + b"\n".join([b"a" * 99] * 20_000))
    file = file_of(tmp_path, bomb)
    assert len(texts(file)) == 20_001
    monkeypatch.setattr(input_file, "FREE_EXPANSION_BYTES", 1000)
    limit = 200 * len(bomb)
    assert limit < 2_000_000
    assert failure(file).message == (
        f"notes.txt unpacks to more than {limit} bytes, 200 times its size."
    )
