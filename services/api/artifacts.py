"""What jobs put out: datasets, tokenizers, exports and the files of every artifact."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from services.api.context import ApiContext, Context
from services.api.parameters import After, ArtifactId, Limit
from shared.base.errors import ConflictError, NotFoundError
from shared.base.ids import IdPrefix, is_id
from shared.contracts.manifest import DatasetMeta, Manifest
from shared.contracts.names import ArtifactType
from shared.contracts.views import ArtifactView, Page, PreviewView
from shared.db.repositories.artifacts import get_artifact
from shared.db.repositories.checkpoints import get_checkpoint
from shared.db.tables import ArtifactRow, CheckpointRow
from shared.jobs.reading.listings import artifacts_page
from shared.jobs.reading.views import artifact_view
from shared.storage.base import ObjectStore

DATASETS = (ArtifactType.DATASET, ArtifactType.TOKENS)
TOKENIZERS = (ArtifactType.TOKENIZER,)
EXPORTS = (ArtifactType.EXPORT,)
EVALUATIONS = (ArtifactType.EVALUATION,)
MAX_PREVIEW_BYTES = 4 << 20
"""A preview reads no more than this from the store, however long the rows are."""

router = APIRouter(prefix="/v1", tags=["artifacts"])


@router.get("/datasets")
def list_datasets(
    context: ApiContext, after: After = None, limit: Limit = 50
) -> Page[ArtifactView]:
    """Datasets and token sets, newest first."""
    return _page(context, DATASETS, after, limit)


@router.get("/datasets/{artifact_id}")
def read_dataset(context: ApiContext, artifact_id: ArtifactId) -> ArtifactView:
    """One dataset or token set with its manifest."""
    return _one(context, artifact_id, DATASETS)


@router.get("/datasets/{artifact_id}/preview")
def preview_dataset(
    context: ApiContext, artifact_id: ArtifactId, n: Annotated[int, Query(ge=1, le=100)] = 10
) -> PreviewView:
    """The first `n` rows of a dataset (fewer when they are very long)."""
    with context.database.reading() as session:
        row = get_artifact(session, artifact_id, DATASETS)
    manifest = Manifest.model_validate(row.manifest)
    if not isinstance(manifest.meta, DatasetMeta):
        raise ConflictError(
            f"{artifact_id} holds tokens, not text.",
            hint="Preview the dataset it was made from: its job's inputs name it.",
        )
    keys = [f"{row.prefix}{file.path}" for file in manifest.files if file.path.endswith(".jsonl")]
    rows = _first_rows(context.store, sorted(keys), n)
    return PreviewView(format=manifest.meta.format, rows=rows)


@router.get("/tokenizers")
def list_tokenizers(
    context: ApiContext, after: After = None, limit: Limit = 50
) -> Page[ArtifactView]:
    """Tokenizers, newest first."""
    return _page(context, TOKENIZERS, after, limit)


@router.get("/tokenizers/{artifact_id}")
def read_tokenizer(context: ApiContext, artifact_id: ArtifactId) -> ArtifactView:
    """One tokenizer with its manifest."""
    return _one(context, artifact_id, TOKENIZERS)


@router.get("/evaluations")
def list_evaluations(
    context: ApiContext, after: After = None, limit: Limit = 50
) -> Page[ArtifactView]:
    """Evaluations, newest first; what each found is in its manifest."""
    return _page(context, EVALUATIONS, after, limit)


@router.get("/evaluations/{artifact_id}")
def read_evaluation(context: ApiContext, artifact_id: ArtifactId) -> ArtifactView:
    """One evaluation with its manifest."""
    return _one(context, artifact_id, EVALUATIONS)


@router.get("/exports")
def list_exports(context: ApiContext, after: After = None, limit: Limit = 50) -> Page[ArtifactView]:
    """Exports, newest first."""
    return _page(context, EXPORTS, after, limit)


@router.get("/exports/{artifact_id}")
def read_export(context: ApiContext, artifact_id: ArtifactId) -> ArtifactView:
    """One export with its manifest."""
    return _one(context, artifact_id, EXPORTS)


@router.get(
    "/artifacts/{artifact_id}/files/{path:path}",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            }
        }
    },
)
def download_file(context: ApiContext, artifact_id: ArtifactId, path: str) -> StreamingResponse:
    """A file of any artifact or checkpoint; its manifest lists the paths, sizes and digests."""
    row = _row_with_files(context, artifact_id)
    files = {file.path: file for file in Manifest.model_validate(row.manifest).files}
    if path not in files:
        raise NotFoundError(f"{artifact_id} has no file {path!r}.")
    name = quote(PurePosixPath(path).name)
    headers = {
        "Content-Length": str(files[path].bytes),
        "Content-Disposition": f"attachment; filename*=utf-8''{name}",
        "ETag": f'"{files[path].sha256}"',
    }
    chunks = _open(context.store, f"{row.prefix}{path}")
    return StreamingResponse(chunks, headers=headers, media_type="application/octet-stream")


def _page(
    context: Context, types: Collection[ArtifactType], after: str | None, limit: int
) -> Page[ArtifactView]:
    with context.database.reading() as session:
        return artifacts_page(session, types, after=after, limit=limit)


def _one(context: Context, artifact_id: str, types: Collection[ArtifactType]) -> ArtifactView:
    with context.database.reading() as session:
        return artifact_view(get_artifact(session, artifact_id, types))


def _row_with_files(context: Context, artifact_id: str) -> ArtifactRow | CheckpointRow:
    with context.database.reading() as session:
        if is_id(artifact_id, IdPrefix.CHECKPOINT):
            return get_checkpoint(session, artifact_id)
        return get_artifact(session, artifact_id)


def _open(store: ObjectStore, key: str) -> Iterator[bytes]:
    """Open the object now, while its absence can still be answered; close it at the end."""
    with ExitStack() as opened:
        chunks = opened.enter_context(store.stream(key))
        closing = opened.pop_all()

    def read() -> Iterator[bytes]:
        with closing:
            yield from chunks

    return read()


def _first_rows(store: ObjectStore, keys: list[str], count: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    budget = MAX_PREVIEW_BYTES
    for key in keys:
        lines, read = _first_lines(store, key, count - len(rows), budget)
        rows += [json.loads(line) for line in lines]
        budget -= read
        if len(rows) == count or budget <= 0:
            break
    return rows


def _first_lines(store: ObjectStore, key: str, count: int, budget: int) -> tuple[list[bytes], int]:
    """Up to `count` whole lines, and how many bytes were read for them."""
    content = b""
    with store.stream(key) as chunks:
        for chunk in chunks:
            content += chunk
            if content.count(b"\n") >= count or len(content) >= budget:
                break
    lines = content.split(b"\n")
    lines.pop()  # what follows the last line break: nothing, or a line cut off
    return lines[:count], len(content)
