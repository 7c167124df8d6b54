"""Datasets on disk: parts, repetitions, what is known of them, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from services.tokenizer.dataset_writer import DatasetWriter
from services.tokenizer.ingest import ingest
from services.tokenizer.input_file import InputFile
from services.tokenizer.rows import read_lines
from services.tokenizer.watch import Stopped
from services.tokenizer.well_known import ADDRESSES, fetched_files
from shared.base.download import PUBLIC_HOSTS, Downloader, OnBytes
from shared.base.errors import IntegrityError, JobFailedError
from shared.base.files import write_bytes
from shared.contracts.data_specs import IngestSpec
from shared.contracts.manifest import DatasetMeta
from shared.contracts.progress import PhaseLine, ProgressLine
from tests.support.watching import quiet_watch, recording_watch

UPLOAD = "upl_01J00000000000000000000000"


def ingest_text(folder: Path, content: str, **options: object) -> DatasetMeta:
    path = folder / "upload"
    path.write_text(content)
    spec = IngestSpec.model_validate({"source": "text", "upload": UPLOAD, **options})
    return ingest(spec, InputFile(path, "notes.txt"), folder / "dataset", quiet_watch())


def rows_in(folder: Path) -> list[object]:
    return [json.loads(line) for line in read_lines(folder / "dataset")]


def test_documents_are_written_once(tmp_path: Path) -> None:
    meta = ingest_text(tmp_path, "\n<|endoftext|>\n".join(["é b", "c", "é b", "d", "c"]))
    assert meta == DatasetMeta(
        format="documents",
        documents=3,
        text_bytes=6,
        duplicates_dropped=2,
        source="text: notes.txt",
    )
    assert (tmp_path / "dataset" / "part-00000.jsonl").read_text() == (
        '{"text":"é b"}\n{"text":"c"}\n{"text":"d"}\n'
    )


def test_repetitions_may_stay(tmp_path: Path) -> None:
    meta = ingest_text(tmp_path, "a\n<|endoftext|>\na", deduplicate=False)
    assert (meta.documents, meta.duplicates_dropped) == (2, 0)


def test_short_documents_are_dropped_and_the_first_ones_kept(tmp_path: Path) -> None:
    content = "\n<|endoftext|>\n".join(["a", "bbb", "ccc", "ddd"])
    ingest_text(tmp_path, content, min_chars=2, max_documents=2)
    assert rows_in(tmp_path) == [{"text": "bbb"}, {"text": "ccc"}]


@pytest.mark.parametrize("content", ["", "\n \n\n", "<|endoftext|>\n<|endoftext|>\n"])
def test_an_empty_corpus(tmp_path: Path, content: str) -> None:
    with pytest.raises(JobFailedError, match=r"notes\.txt holds no documents\.") as caught:
        ingest_text(tmp_path, content)
    assert caught.value.code == "bad_data"


def test_a_corpus_of_too_short_documents(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError) as caught:
        ingest_text(tmp_path, "short", min_chars=100)
    assert caught.value.hint == (
        "Send a file with text in it; less than 100 characters are dropped."
    )


def test_dialogues_are_a_dataset_of_their_own_kind(tmp_path: Path) -> None:
    line = '{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Yes."}]}\n'
    (tmp_path / "upload").write_text(line * 2)
    spec = IngestSpec(source="dialogues", upload=UPLOAD)
    file = InputFile(tmp_path / "upload", "chats.jsonl")
    meta = ingest(spec, file, tmp_path / "dataset", quiet_watch())
    assert meta.format == "dialogues"
    assert (meta.documents, meta.text_bytes, meta.duplicates_dropped) == (1, 6, 1)
    assert (tmp_path / "dataset" / "part-00000.jsonl").read_text() == line


def test_parts_are_cut_between_rows(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path, deduplicate=True, part_bytes=40) as writer:
        for word in ("one", "two", "three", "x" * 100, "four"):
            assert writer.add({"text": word})
        assert not writer.add({"text": "one"})
    parts = [path.read_text().splitlines() for path in sorted(tmp_path.iterdir())]
    assert [[json.loads(line)["text"] for line in part] for part in parts] == [
        ["one", "two"],
        ["three"],
        ["x" * 100],
        ["four"],
    ]


def test_a_failed_ingest_leaves_no_part(tmp_path: Path) -> None:
    (tmp_path / "upload").write_text('{"text": "good"}\n{"text": 3}\n')
    spec = IngestSpec(source="jsonl", upload=UPLOAD)
    with pytest.raises(JobFailedError, match="line 2"):
        ingest(spec, InputFile(tmp_path / "upload", "x"), tmp_path / "dataset", quiet_watch())
    assert list((tmp_path / "dataset").iterdir()) == []


def test_a_folder_that_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="this is not a dataset"):
        list(read_lines(tmp_path))


def test_progress_and_stop(tmp_path: Path) -> None:
    (tmp_path / "upload").write_text("\n<|endoftext|>\n".join(["first", "second", "third"]))
    spec = IngestSpec(source="text", upload=UPLOAD)
    file = InputFile(tmp_path / "upload", "x")
    watch, lines = recording_watch(stop_after=2)
    with pytest.raises(Stopped):
        ingest(spec, file, tmp_path / "dataset", watch)
    assert lines == [
        PhaseLine(phase="reading"),
        ProgressLine(step=20, total_steps=46, message="bytes read"),
    ]
    assert list((tmp_path / "dataset").iterdir()) == []


C4 = "https://huggingface.co/datasets/allenai/c4/resolve/main/realnewslike/c4-train."


def test_c4_is_fetched_only_as_far_as_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one thing replaced is the internet."""
    asked: list[str] = []

    def fetch(_: Downloader, url: str, target: Path, on_bytes: OnBytes) -> bool:
        shard = len(asked)
        asked.append(url)
        lines = [b'{"text": "news %d %d", "url": "u"}\n' % (shard, n) for n in range(3)]
        write_bytes(target, gzip.compress(b"".join(lines)))
        on_bytes(1, 1)
        return True

    monkeypatch.setattr(Downloader, "fetch", fetch)
    spec = IngestSpec(source="c4", max_documents=5)
    fetched = fetched_files(spec, tmp_path / "downloads", quiet_watch(), Downloader())
    meta = ingest(spec, None, tmp_path / "dataset", quiet_watch(), fetched=fetched)
    assert (meta.documents, meta.source) == (5, "c4: realnewslike")
    assert rows_in(tmp_path)[-1] == {"text": "news 1 1"}
    assert asked == [f"{C4}{shard:05d}-of-00512.json.gz" for shard in range(2)]
    del fetched
    assert list((tmp_path / "downloads").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "url"),
    [
        (
            {"source": "wikipedia"},
            "https://dumps.wikimedia.org/simplewiki/latest/simplewiki-latest-pages-articles.xml.bz2",
        ),
        (
            {"source": "dailydialog", "split": "validation"},
            "https://huggingface.co/datasets/roskoN/dailydialog/resolve/main/validation.zip",
        ),
        ({"source": "c4", "max_documents": 1}, f"{C4}00000-of-00512.json.gz"),
    ],
)
def test_the_well_known_addresses_are_allowed_ones(options: dict[str, Any], url: str) -> None:
    spec = IngestSpec.model_validate(options)
    assert next(ADDRESSES[spec.source](spec)) == url
    assert PUBLIC_HOSTS.fullmatch(urlsplit(url).hostname or "")


def test_nobody_fetches_all_of_c4_by_mistake() -> None:
    with pytest.raises(ValidationError, match="say how much of C4"):
        IngestSpec(source="c4")
