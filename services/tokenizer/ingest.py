"""Raw material in, a dataset folder out. Knows no queue, no store and no database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


def format_of_source(source: str) -> Format:
    """What a source gives."""
    return "dialogues" if source in SOURCES_OF_DIALOGUES else "documents"


def ingest(spec: IngestSpec, upload: InputFile | None, folder: Path, watch: Watch) -> DatasetMeta:
    """Write the dataset that `spec` describes into `folder`.

    `upload` is the file of the sources that read one. Raises JobFailedError for material that
    cannot be read, saying where, and when no document is left.
    """
    watch.phase("reading")
    row_format = format_of_source(spec.source)
    name = upload.name if upload else f"Python's {spec.source.removeprefix('python_')}"
    with DatasetWriter(folder, deduplicate=spec.deduplicate) as writer:
        for row in _rows(spec, upload, watch):
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


def _rows(spec: IngestSpec, upload: InputFile | None, watch: Watch) -> Iterator[Row]:
    if spec.source == "python_docs":
        return python_docs.python_docs(spec, watch)
    if spec.source == "python_qa":
        return python_qa.python_qa(watch)
    if upload is None:
        raise JobFailedError(f"The source {spec.source!r} needs an uploaded file.")
    return _watched(FILE_SOURCES[spec.source](upload, spec), upload, watch)


def _watched(rows: Iterator[Row], upload: InputFile, watch: Watch) -> Iterator[Row]:
    for row in rows:
        watch.step(upload.bytes_read, upload.total_bytes, "bytes read")
        yield row
