"""Brings the inputs of a claimed job to this machine's disk.

What an input's files must be comes from the database (manifest or digest), so a store that lost or
changed bytes is found out here and not in the middle of a training run.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from shared.base.errors import IntegrityError, NotFoundError
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
from shared.jobs.worker.cache import InputCache
from shared.jobs.worker.retries import AbandonedError, outlast_outage
from shared.storage.base import ObjectStore
from shared.storage.folders import fetch_file, fetch_folder
from shared.storage.keys import upload_key

logger = logging.getLogger(__name__)

UPLOAD_NAME = "content"
WEIGHTS_ONLY = (FileRole.MODEL, FileRole.TOKENIZER)
"""What a job that starts from a checkpoint (and does not continue it) needs of it."""
ROLES_OF_FIELD: dict[tuple[JobKind, str], tuple[FileRole, ...]] = {
    (JobKind.FINETUNE, "checkpoint"): WEIGHTS_ONLY,
    (JobKind.EVALUATE, "checkpoint"): WEIGHTS_ONLY,
    (JobKind.EXPORT, "checkpoint"): WEIGHTS_ONLY,
}
"""Inputs of which only some files are fetched."""
RESUME_FIELD = "resume_from"


class DamagedCheckpointError(IntegrityError):
    """The checkpoint to resume from is not what its row says, read twice."""


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


class _AbandonableReader:
    """The store, but a download ends as soon as nobody waits for it any more."""

    def __init__(self, store: ObjectStore, abandoned: threading.Event) -> None:
        self._store = store
        self._abandoned = abandoned

    @contextmanager
    def stream(self, key: str) -> Iterator[Iterator[bytes]]:
        with self._store.stream(key) as chunks:
            yield self._watched(chunks, key)

    def _watched(self, chunks: Iterator[bytes], key: str) -> Iterator[bytes]:
        for chunk in chunks:
            if self._abandoned.is_set():
                raise AbandonedError(f"{key} is not needed any more.")
            yield chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFetcher:
    """Fetches by id for one attempt, through the cache."""

    database: Database
    store: ObjectStore
    cache: InputCache
    settings: Settings
    held: ExitStack
    """What is fetched stays on disk as long as this is open."""
    abandoned: threading.Event
    """Until this is set, outages are outlasted."""

    def fetch(self, kind: JobKind, ids: Mapping[str, str], resume_id: str | None) -> FetchedInputs:
        """Bring every input (`ids` by their paths in the spec) and the checkpoint to resume from.

        Raises NotFoundError or IntegrityError for an input that is gone or damaged (of these,
        DamagedCheckpointError for the checkpoint), AbandonedError when nobody waits any more.
        """
        inputs = {
            field: self._outlast(artifact_id, ROLES_OF_FIELD.get((kind, field), ()))
            for field, artifact_id in ids.items()
            if field != RESUME_FIELD
        }
        resume = self._fetch_resume(resume_id) if resume_id else None
        return FetchedInputs(inputs=inputs, resume=resume)

    def _fetch_resume(self, checkpoint_id: str) -> Path:
        """A second reading tells damage in the store from damage on the way."""
        try:
            return self._outlast(checkpoint_id, ()).path
        except IntegrityError as error:
            logger.warning("Checkpoint %s is read again: %s", checkpoint_id, error.message)
        try:
            return self._outlast(checkpoint_id, ()).path
        except IntegrityError as error:
            raise DamagedCheckpointError(error.message) from error

    def _outlast(self, artifact_id: str, roles: tuple[FileRole, ...]) -> RunInput:
        if self.abandoned.is_set():
            raise AbandonedError(f"{artifact_id} is not needed any more.")
        return outlast_outage(
            lambda: self._bring(artifact_id, roles),
            settings=self.settings,
            abandoned=self.abandoned,
            on_wait=lambda error: logger.warning("Input %s must wait: %s", artifact_id, error),
        )

    def _bring(self, artifact_id: str, roles: tuple[FileRole, ...]) -> RunInput:
        if is_id(artifact_id, IdPrefix.UPLOAD):
            return self._bring_upload(artifact_id)
        folder = self._describe(artifact_id)
        num_bytes = sum(entry.bytes for entry in folder.manifest.with_roles(*roles))

        def fetch(target: Path) -> None:
            fetch_folder(self._reader, folder.prefix, folder.manifest, target, roles)

        name = ".".join([artifact_id, *roles])
        path = self.held.enter_context(self.cache.hold(name, num_bytes, fetch))
        return RunInput(id=artifact_id, path=path, name=folder.name)

    def _describe(self, artifact_id: str) -> _Folder:
        with self.database.reading() as session:
            if is_id(artifact_id, IdPrefix.CHECKPOINT):
                checkpoint = get_checkpoint(session, artifact_id)
                manifest = Manifest.model_validate(checkpoint.manifest)
                return _Folder(
                    name=f"step-{checkpoint.step}", prefix=checkpoint.prefix, manifest=manifest
                )
            artifact = get_artifact(session, artifact_id)
            manifest = Manifest.model_validate(artifact.manifest)
            return _Folder(name=artifact.name, prefix=artifact.prefix, manifest=manifest)

    def _bring_upload(self, upload_id: str) -> RunInput:
        with self.database.reading() as session:
            row = get_upload(session, upload_id)
        entry = _entry_of_upload(row)

        def fetch(target: Path) -> None:
            self._fetch_upload(upload_id, entry, target)

        folder = self.held.enter_context(self.cache.hold(upload_id, row.bytes, fetch))
        return RunInput(id=upload_id, path=folder / UPLOAD_NAME, name=row.filename)

    def _fetch_upload(self, upload_id: str, entry: FileEntry, target: Path) -> None:
        temporary = target.with_name(f".{target.name}.{uuid4().hex}.tmp")
        try:
            fetch_file(self._reader, upload_key(upload_id), entry, temporary / UPLOAD_NAME)
            temporary.rename(target)
            fsync_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @property
    def _reader(self) -> _AbandonableReader:
        return _AbandonableReader(self.store, self.abandoned)


def _entry_of_upload(row: UploadRow) -> FileEntry:
    if row.sha256 is None:
        raise NotFoundError(f"The content of upload {row.id} was never sent.")
    return FileEntry(path=UPLOAD_NAME, bytes=row.bytes, sha256=row.sha256, role=FileRole.DATA)
