"""Raw material in, a dataset folder out. Knows no queue, no store and no database."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from services.tokenizer import (
    daily_dialog,
    dialogues,
    documents,
    python_docs,
    python_qa,
    wikipedia,
)
from services.tokenizer.dataset_writer import DatasetWriter
from services.tokenizer.input_file import InputFile
from services.tokenizer.rows import Format, Row, texts_of
from services.tokenizer.watch import Watch
from shared.base.errors import JobFailedError
from shared.contracts.data_specs import IngestSpec
from shared.contracts.manifest import DatasetMeta

FILE_SOURCES: dict[str, Callable[[InputFile, IngestSpec], Iterator[Row]]] = {
    "text": documents.text_documents,
    "jsonl": documents.jsonl_documents,
    "dialogues": dialogues.dialogues,
    "wikipedia": wikipedia.wikipedia_documents,
    "c4": documents.jsonl_documents,
    "dailydialog": daily_dialog.daily_dialogues,
}
SOURCES_OF_DIALOGUES = frozenset({"dialogues", "dailydialog", "python_qa"})


NAME_OF_SOURCE = {
    "python_docs": "Python's docs",
    "python_qa": "Python's qa",
    "wikipedia": "{edition}",
    "c4": "realnewslike",
    "dailydialog": "{split}",
}
"""What is read when there is no upload, for people."""


def format_of_source(source: str) -> Format:
    """What a source gives."""
    return "dialogues" if source in SOURCES_OF_DIALOGUES else "documents"


def ingest(
    spec: IngestSpec,
    upload: InputFile | None,
    folder: Path,
    watch: Watch,
    *,
    fetched: Iterable[InputFile] = (),
) -> DatasetMeta:
    """Write the dataset that `spec` describes into `folder`.

    `upload` is the file that the user has sent; without one, the files that `fetched` brings are
    read, as far as they are needed. Raises JobFailedError for material that
    cannot be read, saying where, and when no document is left.
    """
    watch.phase("reading")
    row_format = format_of_source(spec.source)
    name = upload.name if upload else NAME_OF_SOURCE[spec.source].format_map(dict(spec))
    with DatasetWriter(folder, deduplicate=spec.deduplicate) as writer:
        for row in _rows(spec, [upload] if upload else fetched, watch):
            if sum(map(len, texts_of(row))) >= spec.min_chars:
                writer.add(row)
            if writer.documents == spec.max_documents:
                break
    if writer.documents == 0:
        raise JobFailedError(
            f"{name} holds no {row_format}.",
            hint=f"Send a file with text in it; less than {spec.min_chars} characters are dropped.",
        )
    return writer.meta(source=f"{spec.source}: {name}", row_format=row_format)


def _rows(spec: IngestSpec, files: Iterable[InputFile], watch: Watch) -> Iterator[Row]:
    if spec.source == "python_docs":
        yield from python_docs.python_docs(spec, watch)
    elif spec.source == "python_qa":
        yield from python_qa.python_qa(watch)
    else:
        for file in files:
            for row in FILE_SOURCES[spec.source](file, spec):
                watch.step(file.bytes_read, file.total_bytes, "bytes read")
                yield row
