"""Reads every published version as the inference service does, as soon as a pointer names it."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

from pydantic import ValidationError

from shared.base.errors import IntegrityError, NotFoundError, UnavailableError
from shared.contracts.names import FileRole
from shared.contracts.serving import MODELS_INDEX_KEY, ModelPointer, ModelsIndex
from shared.storage.base import ObjectStore
from shared.storage.folders import fetch_folder, read_manifest

POLL_SECONDS = 0.25
ROLES = (FileRole.MODEL, FileRole.TOKENIZER)


class Reader:
    """A thread that follows the pointers until its context is left."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="served", daemon=True)
        self._seen: set[str] = set()
        self.torn: list[str] = []
        """Why a version could not be served although its pointer still names it."""
        self.error: Exception | None = None

    @property
    def served(self) -> int:
        """Versions that were read whole."""
        return len(self._seen)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _loop(self) -> None:
        try:
            while not self._ended.wait(POLL_SECONDS):
                for pointer in self._pointers():
                    if pointer.manifest_sha256 not in self._seen:
                        self._read(pointer)
        except Exception as error:  # noqa: BLE001 - a thread's boundary; raised by `__exit__`
            self.error = error

    def _pointers(self) -> tuple[ModelPointer, ...]:
        try:
            content = self._store.get_bytes(MODELS_INDEX_KEY)
            return ModelsIndex.model_validate_json(content).models
        except (NotFoundError, UnavailableError):  # nothing published yet, or the store is away
            return ()
        except ValidationError as error:
            self.torn.append(f"the index of models: {error}")
            return ()

    def _read(self, pointer: ModelPointer) -> None:
        try:
            manifest = read_manifest(
                self._store, pointer.manifest_key, sha256=pointer.manifest_sha256
            )
            prefix = pointer.manifest_key.rpartition("/")[0] + "/"
            with tempfile.TemporaryDirectory() as folder:
                fetch_folder(self._store, prefix, manifest, Path(folder, "model"), ROLES)
        except UnavailableError:
            return
        except (IntegrityError, NotFoundError) as error:
            if pointer in self._pointers():  # else a newer one has replaced it meanwhile
                self.torn.append(f"{pointer.model}:{pointer.version}: {error.message}")
                self._seen.add(pointer.manifest_sha256)
            return
        self._seen.add(pointer.manifest_sha256)
