"""Documents out of Python's own documentation: real English that every machine here has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from services.tokenizer.documents import cut_document
from services.tokenizer.python_library import docstrings, library_folder, library_modules
from services.tokenizer.rows import Row
from services.tokenizer.watch import Watch
from shared.base.errors import JobFailedError
from shared.contracts.data_specs import IngestSpec


def python_docs(spec: IngestSpec, watch: Watch, folder: Path | None = None) -> Iterator[Row]:
    """Yield the language reference's topics, then the library's docstrings, long ones cut.

    `folder` is where the library lies, by default this Python's.
    """
    for text in _texts(watch, folder or library_folder()):
        for piece in cut_document(text, spec.max_document_chars):
            yield {"text": piece}


def _texts(watch: Watch, folder: Path) -> Iterator[str]:
    modules = library_modules(folder)
    yield from _topics()
    for position, module in enumerate(modules, start=1):
        watch.step(position, len(modules), f"module {module.name}")
        tree = module.parse()
        if tree is not None:
            yield from docstrings(tree)


def _topics() -> list[str]:
    try:
        from pydoc_data.topics import topics  # its own import: some distributions leave it out
    except ImportError as error:
        raise JobFailedError(
            "This Python carries no pydoc_data.topics.",
            hint="Install Python's standard library completely, or ingest a text of your own.",
        ) from error
    return [topics[name] for name in sorted(topics)]
