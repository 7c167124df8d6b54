"""From folders on this machine's disk to objects and rows: checkpoints and other outputs."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TypeVar

from shared.base.clock import utc_now
from shared.base.errors import IntegrityError, PlatformError, UnavailableError
from shared.base.ids import IdPrefix, new_id
from shared.base.settings import Settings
from shared.contracts.manifest import MANIFEST_NAME, ArtifactMeta, Manifest
from shared.contracts.names import ArtifactType
from shared.contracts.progress import CheckpointLine, NoticeLine, OutputLine
from shared.db.session import Database
from shared.db.tables import CheckpointRow
from shared.jobs.life.outputs import FinishedOutput
from shared.jobs.life.publication import commit_checkpoint
from shared.jobs.life.retention import retire_checkpoints
from shared.jobs.timing import RELAY_SECONDS
from shared.jobs.worker.retries import AbandonedError, outlast_outage
from shared.storage.base import ObjectStore
from shared.storage.folders import describe_folder, store_folder
from shared.storage.keys import checkpoint_prefix, output_prefix

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

_ID_OF_OUTPUT = {
    ArtifactType.DATASET: IdPrefix.DATASET,
    ArtifactType.TOKENS: IdPrefix.DATASET,
    ArtifactType.TOKENIZER: IdPrefix.TOKENIZER,
    ArtifactType.EVALUATION: IdPrefix.EVALUATION,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploader:
    """Uploads what one attempt announces. Outages are outlasted until `abandoned` is set.

    Every method raises AbandonedError then, and LeaseLostError when another worker has the job.
    """

    database: Database
    store: ObjectStore
    settings: Settings
    job_id: str
    token: int
    run_folder: Path
    abandoned: threading.Event
    tell: Callable[[NoticeLine], None]
    """Lets the job's owner know what has to wait."""
    is_written_up_to: Callable[[CheckpointLine], bool]
    """Whether the metrics before a checkpoint are in the database; it is not committed sooner."""

    def upload_checkpoint(self, line: CheckpointLine) -> None:
        """Store the folder, commit it as a checkpoint, and remove what retention gives up."""
        folder = self._inside(line.path)
        manifest = self._manifest(new_id(IdPrefix.CHECKPOINT), folder, line.meta)
        prefix = self._free_prefix(line.meta.step)
        what = f"Checkpoint of step {line.meta.step}"
        digest = self._outlast(lambda: store_folder(self.store, prefix, folder, manifest), what)

        def commit() -> None:
            with self.database.transaction() as session:
                commit_checkpoint(
                    session,
                    self.job_id,
                    self.token,
                    checkpoint_id=manifest.id,
                    prefix=prefix,
                    manifest=manifest,
                    manifest_sha256=digest,
                    best=line.best,
                )

        while not self.is_written_up_to(line) and not self.abandoned.wait(self._tick):
            pass  # the relay writes them, or raises what ends this attempt
        self._outlast(commit, what)
        shutil.rmtree(folder)
        self._retire()

    def discard_checkpoint(self, line: CheckpointLine) -> None:
        """Remove a checkpoint that a newer one has replaced, and say so."""
        shutil.rmtree(self._inside(line.path))
        message = f"The checkpoint of step {line.meta.step} was replaced before it could be stored."
        self.tell(NoticeLine(level="warning", message=message))

    def upload_outputs(self, lines: Sequence[OutputLine]) -> list[FinishedOutput]:
        """Store the folders; what is returned becomes rows when the job succeeds."""
        return [self._upload_output(line) for line in lines]

    def _upload_output(self, line: OutputLine) -> FinishedOutput:
        folder = self._inside(line.path)
        prefix = output_prefix(self.job_id, self.token, line.output)
        id_prefix = _ID_OF_OUTPUT.get(line.output)
        manifest = self._manifest(
            new_id(id_prefix) if id_prefix else self.job_id, folder, line.meta
        )
        self._outlast(
            lambda: store_folder(self.store, prefix, folder, manifest), f"Output {line.output}"
        )
        return FinishedOutput(output=line.output, name=line.name, prefix=prefix, manifest=manifest)

    def _manifest(self, artifact_id: str, folder: Path, meta: ArtifactMeta) -> Manifest:
        return Manifest(
            id=artifact_id,
            job_id=self.job_id,
            token=self.token,
            created_at=utc_now(),
            files=describe_folder(folder),
            meta=meta,
        )

    @property
    def _tick(self) -> float:
        return self.settings.seconds(RELAY_SECONDS) / 5

    def _inside(self, announced: str) -> Path:
        folder = Path(announced).resolve()
        if not folder.is_relative_to(self.run_folder) or not folder.is_dir():
            raise IntegrityError(
                f"The process announced {announced}, which is no folder of its run."
            )
        return folder

    def _free_prefix(self, step: int) -> str:
        """A step that is saved again gets another place: what a row names is never overwritten."""
        first = checkpoint_prefix(self.job_id, self.token, step)
        repetitions = (f"{first}again-{number}/" for number in count(1))
        return next(prefix for prefix in chain([first], repetitions) if self._is_free(prefix))

    def _is_free(self, prefix: str) -> bool:
        key = prefix + MANIFEST_NAME
        return self._outlast(lambda: self.store.size(key), f"Looking for {key}") is None

    def _retire(self) -> None:
        """What fails here costs room in the store, never the job."""
        try:
            with self.database.transaction() as session:
                retired = retire_checkpoints(session, self.job_id)
            for row in retired:
                self.store.delete(_keys_of(row))
        except PlatformError as error:
            logger.warning("Old checkpoints of %s could not be removed: %s", self.job_id, error)

    def _outlast(self, action: Callable[[], Result], what: str) -> Result:
        if self.abandoned.is_set():
            raise AbandonedError(f"{what} is not needed any more.")

        def tell(error: UnavailableError) -> None:
            logger.warning("%s must wait: %s", what, error.message)
            self.tell(NoticeLine(level="warning", message=f"{what} must wait: {error.message}"))

        return outlast_outage(
            action, settings=self.settings, abandoned=self.abandoned, on_wait=tell
        )


def _keys_of(row: CheckpointRow) -> list[str]:
    """The manifest first: without it the rest is no checkpoint."""
    manifest = Manifest.model_validate(row.manifest)
    return [row.prefix + MANIFEST_NAME, *(row.prefix + entry.path for entry in manifest.files)]
