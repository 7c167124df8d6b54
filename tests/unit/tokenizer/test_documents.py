"""Documents out of text and JSONL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tokenizer.documents import (
    cut_document,
    jsonl_documents,
    text_documents,
)
from services.tokenizer.input_file import InputFile
from shared.base.errors import JobFailedError
from shared.contracts.data_specs import IngestSpec

UPLOAD = "upl_01J00000000000000000000000"


def documents_of(folder: Path, content: str, source: str = "text", **options: object) -> list[str]:
    path = folder / "upload"
    path.write_text(content, encoding="utf-8")
    spec = IngestSpec.model_validate({"source": source, "upload": UPLOAD, **options})
    read = text_documents if source == "text" else jsonl_documents
    return [row["text"] for row in read(InputFile(path, "notes"), spec)]


def test_separator_lines_end_documents(tmp_path: Path) -> None:
    content = (
        "First.\n\nStill first.\n<|endoftext|>\n\n  Second.\n<|endoftext|>\n<|endoftext|>\nThird"
    )
    assert documents_of(tmp_path, content) == ["First.\n\nStill first.", "  Second.", "Third"]


def test_a_separator_inside_a_line_is_text(tmp_path: Path) -> None:
    content = "a <|endoftext|> b\n<|endoftext|>\nc\n"
    assert documents_of(tmp_path, content) == ["a <|endoftext|> b", "c"]


def test_another_separator(tmp_path: Path) -> None:
    assert documents_of(tmp_path, "a\n%\nb\n", document_separator="%") == ["a", "b"]
    assert documents_of(tmp_path, "a\nb\n\nc\n", document_separator="") == ["a\nb", "c"]


def test_a_text_without_separators_is_cut_at_paragraphs(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {n} " + "x" * 588 for n in range(12)]
    found = documents_of(tmp_path, "\n\n".join(paragraphs))
    assert found == ["\n\n".join(paragraphs[n : n + 3]) for n in range(0, 12, 3)]


def test_a_long_document_is_cut_and_a_short_one_is_not(tmp_path: Path) -> None:
    content = "short\n<|endoftext|>\n" + "word " * 50 + "\n<|endoftext|>\n"
    found = documents_of(tmp_path, content, max_document_chars=100)
    assert found == [
        "short",
        " ".join(["word"] * 20),
        " ".join(["word"] * 20),
        "word " * 9 + "word",
    ]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("aaaa bb\n\ncccc dddd", ["aaaa bb", "cccc dddd"]),
        ("aaaa bb\ncccc dddd", ["aaaa bb", "cccc dddd"]),
        ("aaaaaaa bbbbbbb", ["aaaaaaa", "bbbbbbb"]),
        ("abcdefghijklmnopqrstuvw", ["abcdefghij", "klmnopqrst", "uvw"]),
        ("a\n\nbcdefghijklmno", ["a\n\nbcdefgh", "ijklmno"]),
        (" \n ", []),
    ],
)
def test_where_a_document_is_cut(text: str, pieces: list[str]) -> None:
    assert list(cut_document(text, 10)) == pieces


@given(st.text(alphabet="ab \n", max_size=300), st.integers(2, 40))
def test_cutting_loses_nothing_but_white_space(text: str, max_chars: int) -> None:
    pieces = list(cut_document(text, max_chars))
    assert all(0 < len(piece) <= max_chars for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_jsonl_texts(tmp_path: Path) -> None:
    lines = [{"text": "one\n"}, {"text": " two", "id": 7}]
    content = "\n\n".join(json.dumps(line) for line in lines)
    assert documents_of(tmp_path, content, "jsonl") == ["one", " two"]
    content = json.dumps({"body": "three"})
    assert documents_of(tmp_path, content, "jsonl", text_field="body") == ["three"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{'text': 1}", "notes, line 2 is not JSON: Expecting property name"),
        ("[" * 100_000, "notes, line 2 is not JSON: "),
        ('["text"]', "notes, line 2 is not a JSON object."),
        ('{"body": "x"}', "notes, line 2 has no text at 'text'."),
        ('{"text": 3}', "notes, line 2 has no text at 'text'."),
        ('{"text": "a\\ud800"}', "notes, line 2: The text holds half of a surrogate pair"),
    ],
)
def test_malformed_jsonl(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(JobFailedError) as caught:
        documents_of(tmp_path, f'{{"text": "fine"}}\n{line}\n', "jsonl")
    assert caught.value.message.startswith(reason)


def test_the_hint_names_the_keys_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError) as caught:
        documents_of(tmp_path, '{"title": "x", "body": "y"}', "jsonl")
    assert caught.value.hint == "Its keys are: body, title. Set text_field."
