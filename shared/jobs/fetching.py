"""Brings the inputs of a claimed job to this machine's disk.

What an input's files must be comes from the database (manifest or digest), so a store that lost or
changed bytes is found out here and not in the middle of a training run.
"""

from __future__ import annotations

import logging
import shutil
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from shared.base.errors import NotFoundError
from shared.base.files import fsync_folder
from shared.base.ids import IdPrefix, is_id
from shared.base.settings import Settings
from shared.contracts.manifest import FileEntry, Manifest
from shared.contracts.names import FileRole, JobKind
from shared.contracts.run_file import RunInput
from shared.db.repositories.artifacts import get_artifact, get_upload
from shared.db.repositories.checkpoints import get_checkpoint
from shared.db.session import Database
from shared.db.tables import UploadRow
from shared.jobs.cache import InputCache
from shared.jobs.retries import AbandonedError, outlast_outage
from shared.storage.base import ObjectStore
from shared.storage.folders import fetch_file, fetch_folder
from shared.storage.keys import upload_key

logger = logging.getLogger(__name__)

UPLOAD_NAME = "content"
WEIGHTS_ONLY = (FileRole.MODEL, FileRole.TOKENIZER)
"""What a job that starts from a checkpoint (and does not continue it) needs of it."""
ROLES_OF_FIELD: dict[tuple[JobKind, str], tuple[FileRole, ...]] = {
    (JobKind.FINETUNE, "checkpoint"): WEIGHTS_ONLY,
    (JobKind.EXPORT, "checkpoint"): WEIGHTS_ONLY,
}
"""Inputs of which only some files are fetched."""
RESUME_FIELD = "resume_from"


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedInputs:
    """Where the inputs are; they stay there until the stack that was passed in is closed."""

    inputs: dict[str, RunInput]
    resume: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    """One artifact's description in the database."""

    name: str
    prefix: str
    manifest: Manifest


class InputFetcher:
    """Fetches by id through one cache; outlasts outages until `abandoned` is set."""

    def __init__(
        self, *, database: Database, store: ObjectStore, cache: InputCache, settings: Settings
    ) -> None:
        self._database = database
        self._store = store
        self._cache = cache
        self._settings = settings

    def fetch(
        self,
        kind: JobKind,
        ids: dict[str, str],
        resume_id: str | None,
        *,
        held: ExitStack,
        abandoned: threading.Event,
    ) -> FetchedInputs:
        """Bring every input (`ids` by spec field) and the checkpoint to resume from.

        Raises NotFoundError or IntegrityError for an input that is gone or damaged, and
        AbandonedError when nobody waits any more.
        """
        inputs = {}
        for field, artifact_id in ids.items():
            if field != RESUME_FIELD:
                roles = ROLES_OF_FIELD.get((kind, field), ())
                inputs[field] = self._outlast(artifact_id, roles, held, abandoned)
        resume = self._outlast(resume_id, (), held, abandoned).path if resume_id else None
        return FetchedInputs(inputs=inputs, resume=resume)

    def _outlast(
        self,
        artifact_id: str,
        roles: tuple[FileRole, ...],
        held: ExitStack,
        abandoned: threading.Event,
    ) -> RunInput:
        if abandoned.is_set():
            raise AbandonedError(f"{artifact_id} is not needed any more.")
        return outlast_outage(
            lambda: self._bring(artifact_id, roles, held),
            settings=self._settings,
            abandoned=abandoned,
            on_wait=lambda error: logger.warning("Input %s must wait: %s", artifact_id, error),
        )

    def _bring(self, artifact_id: str, roles: tuple[FileRole, ...], held: ExitStack) -> RunInput:
        if is_id(artifact_id, IdPrefix.UPLOAD):
            return self._bring_upload(artifact_id, held)
        folder = self._describe(artifact_id)
        name = ".".join([artifact_id, *roles])
        num_bytes = sum(entry.bytes for entry in folder.manifest.with_roles(*roles))
        path = held.enter_context(
            self._cache.hold(
                name,
                num_bytes,
                lambda target: fetch_folder(
                    self._store, folder.prefix, folder.manifest, target, roles
                ),
            )
        )
        return RunInput(id=artifact_id, path=path, name=folder.name)

    def _describe(self, artifact_id: str) -> _Folder:
        with self._database.reading() as session:
            if is_id(artifact_id, IdPrefix.CHECKPOINT):
                row = get_checkpoint(session, artifact_id)
                name = f"step-{row.step}"
                return _Folder(
                    name=name,
                    prefix=row.prefix,
                    manifest=Manifest.model_validate(row.manifest),
                )
            artifact = get_artifact(session, artifact_id)
            return _Folder(
                name=artifact.name,
                prefix=artifact.prefix,
                manifest=Manifest.model_validate(artifact.manifest),
            )

    def _bring_upload(self, upload_id: str, held: ExitStack) -> RunInput:
        with self._database.reading() as session:
            row = get_upload(session, upload_id)
        entry = _entry_of_upload(row)
        folder = held.enter_context(
            self._cache.hold(
                upload_id, row.bytes, lambda target: self._fetch_upload(row.id, entry, target)
            )
        )
        return RunInput(id=upload_id, path=folder / UPLOAD_NAME, name=row.filename)

    def _fetch_upload(self, upload_id: str, entry: FileEntry, target: Path) -> None:
        temporary = target.with_name(f".{target.name}.{uuid4().hex}.tmp")
        try:
            fetch_file(self._store, upload_key(upload_id), entry, temporary / UPLOAD_NAME)
            temporary.rename(target)
            fsync_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _entry_of_upload(row: UploadRow) -> FileEntry:
    if row.sha256 is None:
        raise NotFoundError(f"The content of upload {row.id} was never sent.")
    return FileEntry(path=UPLOAD_NAME, bytes=row.bytes, sha256=row.sha256, role=FileRole.DATA)
