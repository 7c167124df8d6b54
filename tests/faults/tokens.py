"""Stored token sets, as a tokenize job would have left them."""

from __future__ import annotations

from pathlib import Path

from shared.base.clock import utc_now
from shared.base.ids import IdPrefix, new_id
from shared.contracts.manifest import INDEX_NAME, Manifest, TokensMeta
from shared.contracts.names import ArtifactType
from shared.db.repositories import artifacts
from shared.db.session import Database
from shared.db.tables import ArtifactRow
from shared.jobs.life.requests import request_cancel
from shared.storage.base import ObjectStore
from shared.storage.folders import describe_folder, store_folder
from shared.storage.keys import output_prefix
from tests.support.rows import INGEST, submit


def add_tokens(database: Database, store: ObjectStore, folder: Path) -> str:
    """Store the token set in `folder`; return the artifact's id."""
    with database.transaction() as session:
        maker = submit(session, INGEST).id
        request_cancel(session, maker)  # it owns the row, and is never run
    manifest = Manifest(
        id=new_id(IdPrefix.DATASET),
        job_id=maker,
        token=1,
        created_at=utc_now(),
        files=describe_folder(folder),
        meta=TokensMeta.model_validate_json((folder / INDEX_NAME).read_bytes()),
    )
    prefix = output_prefix(maker, 1, ArtifactType.TOKENS)
    store_folder(store, prefix, folder, manifest)
    row = ArtifactRow(
        id=manifest.id,
        type=ArtifactType.TOKENS,
        name="tokens",
        job_id=maker,
        token=1,
        prefix=prefix,
        manifest=manifest.model_dump(mode="json"),
        bytes=manifest.total_bytes,
        created_at=utc_now(),
    )
    with database.transaction() as session:
        artifacts.add_artifacts(session, [row])
    return manifest.id
