"""From a pointer to a model ready to serve: download, verify, build, try. Knows no request.

Nothing is trusted on the way: manifest and files have their digests, configuration and tokenizer
must agree with the manifest, weights must be finite, and the loss of a short text must be the one
that the trainer found.
"""

from __future__ import annotations

import logging
import shutil
import weakref
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path

import torch

from services.inference.kv_cache import KVShape
from services.inference.loaded_model import BatchRow, LoadedModel
from services.inference.runtime import Runtime
from shared.base.errors import IntegrityError
from shared.base.files import sha256_of
from shared.base.ids import IdPrefix, is_id
from shared.contracts.manifest import (
    MANIFEST_NAME,
    MODEL_WEIGHTS,
    TOKENIZER_JSON,
    CheckpointMeta,
    Manifest,
)
from shared.contracts.names import FileRole
from shared.contracts.serving import ModelPointer
from shared.model.canary import canary_ids, mean_loss
from shared.model.weights import load_config, load_state
from shared.storage.base import ObjectStore
from shared.storage.folders import fetch_folder, read_manifest
from shared.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

ROLES = (FileRole.MODEL, FileRole.TOKENIZER)
LOSS_TOLERANCE = {torch.float32: 0.002, torch.bfloat16: 0.05}
"""How far the loss of the test text may be from the trainer's, in nats a token (and, above one nat,
as a share of it). Other kernels differ in the fifth digit, bfloat16 in the second."""
INT8_LOSS_TOLERANCE = 0.02
"""The same for rounded weights, which differ in the third or fourth."""


class LoadStage(StrEnum):
    """How far a version came on its way into service."""

    DOWNLOAD = "download"
    """Manifest and files are fetched and their digests compared."""
    LOAD = "load"
    """Tokenizer and weights are read and must fit each other and the manifest."""
    TRY = "try"
    """A test prompt is computed."""


class ModelLoader:
    """Brings checkpoints to `folder/<checkpoint id>/` and into memory."""

    def __init__(self, store: ObjectStore, folder: Path, runtime: Runtime) -> None:
        self._store = store
        self._folder = folder
        self._runtime = runtime
        self._tokenizers: weakref.WeakValueDictionary[str, Tokenizer] = (
            weakref.WeakValueDictionary()
        )
        self.stage = LoadStage.DOWNLOAD
        """Where the present or last `load` is or ended."""

    def load(self, pointer: ModelPointer) -> LoadedModel:
        """Return the version that `pointer` names, tried out.

        Raises UnavailableError or NotFoundError when the store does not give it, IntegrityError or
        InvalidInputError when what it gives cannot be served.
        """
        with self._runtime.beside():
            self.stage = LoadStage.DOWNLOAD
            manifest, meta = self._read_manifest(pointer)
            folder = self._fetch(pointer, manifest)
            self.stage = LoadStage.LOAD
            tokenizer = self._tokenizer(folder, manifest)
            _check_agreement(folder, meta, tokenizer, pointer)
            state = load_state(folder / MODEL_WEIGHTS)
            network, resident = self._runtime.build(pointer.model, meta.model, state)
            model = LoadedModel(
                pointer=pointer,
                tokenizer=tokenizer,
                network=network,
                cache=self._runtime.caches.cache_for(meta.model),
                attention=self._runtime.attention,
                device=self._runtime.device,
                resident=resident,
            )
            self.stage = LoadStage.TRY
            self._try_out(model, meta.canary_loss)
            return model

    def release_freed(self) -> None:
        """Give back to the system what versions have freed."""
        if self._runtime.budget.has_freed:
            with self._runtime.beside():
                self._runtime.budget.release_freed()

    def prune(self, keep: Collection[str]) -> None:
        """Delete local checkpoints except those with an id in `keep`, and broken-off downloads."""
        if not self._folder.is_dir():
            return
        with self._runtime.beside():
            for path in self._folder.iterdir():
                is_checkpoint = is_id(path.name, IdPrefix.CHECKPOINT)
                if path.suffix == ".tmp" or (is_checkpoint and path.name not in keep):
                    shutil.rmtree(path, ignore_errors=True)

    def _read_manifest(self, pointer: ModelPointer) -> tuple[Manifest, CheckpointMeta]:
        manifest = read_manifest(self._store, pointer.manifest_key, sha256=pointer.manifest_sha256)
        meta = manifest.meta
        if not isinstance(meta, CheckpointMeta) or manifest.id != pointer.checkpoint_id:
            raise IntegrityError(
                f"{pointer.manifest_key} is not the manifest of {pointer.checkpoint_id}."
            )
        return manifest, meta

    def _fetch(self, pointer: ModelPointer, manifest: Manifest) -> Path:
        """Return the local folder, downloaded unless a whole copy is there."""
        if not is_id(pointer.checkpoint_id, IdPrefix.CHECKPOINT):
            raise IntegrityError(f"{pointer.checkpoint_id!r} is not the id of a checkpoint.")
        target = self._folder / pointer.checkpoint_id
        if target.is_dir():
            if _is_whole(target, manifest):
                return target
            logger.warning("%s has changed on disk; it is downloaded again", target)
            shutil.rmtree(target)
        prefix = pointer.manifest_key.removesuffix(MANIFEST_NAME)
        fetch_folder(self._store, prefix, manifest, target, roles=ROLES)
        return target

    def _tokenizer(self, folder: Path, manifest: Manifest) -> Tokenizer:
        """Versions that follow one another share their tokenizer: building one stops the others.

        Its files have been verified, so that the digest in the manifest is that of the file.
        """
        digest = next((one.sha256 for one in manifest.files if one.path == TOKENIZER_JSON), "")
        tokenizer = self._tokenizers.get(digest)
        if tokenizer is None:
            tokenizer = Tokenizer.load(folder)
            self._tokenizers[tokenizer.sha256] = tokenizer
        return tokenizer

    def _try_out(self, model: LoadedModel, expected: float | None) -> None:
        """Compute a text, the last token as when generating, in a cache of its own.

        It also warms kernels up. `expected` is the loss that the checkpoint's trainer found.
        """
        ids = canary_ids(model.tokenizer, model.network.config)
        cache = self._runtime.caches.one_off(KVShape.of(model.network.config), num_slots=1)
        known = len(ids) - 1
        rows = (
            BatchRow(ids=ids[:known], start=0, slot=0, num_logits=known),
            BatchRow(ids=ids[known:], start=known, slot=0, num_logits=1),
        )
        logits = torch.cat([model.compute([row], cache) for row in rows])
        if not torch.isfinite(logits).all():
            raise IntegrityError(
                f"{model.name}:{model.version} computes NaN or infinity for a test text."
            )
        found = mean_loss(logits, ids)
        tolerance = LOSS_TOLERANCE[self._runtime.dtype]
        if self._runtime.weights == "int8":
            tolerance = INT8_LOSS_TOLERANCE
        if expected is not None and abs(found - expected) > tolerance * max(1.0, found):
            raise IntegrityError(
                f"{model.name}:{model.version} has a loss of {found:.4f} on the test text, and its "
                f"trainer found {expected:.4f}: what is computed here is another model."
            )


def _is_whole(folder: Path, manifest: Manifest) -> bool:
    return all(
        (folder / entry.path).is_file() and sha256_of(folder / entry.path) == entry.sha256
        for entry in manifest.with_roles(*ROLES)
    )


def _check_agreement(
    folder: Path, meta: CheckpointMeta, tokenizer: Tokenizer, pointer: ModelPointer
) -> None:
    if load_config(folder) != meta.model:
        raise IntegrityError("The checkpoint's model_config.json differs from its manifest.")
    if tokenizer.sha256 != meta.tokenizer_sha256:
        raise IntegrityError("The checkpoint holds another tokenizer than it was trained with.")
    if tokenizer.vocab_size != meta.model.vocab_size:
        raise IntegrityError(
            f"The tokenizer has {tokenizer.vocab_size} entries, the model {meta.model.vocab_size}."
        )
    if meta.stage != pointer.stage:
        raise IntegrityError(f"The pointer says {pointer.stage}, the manifest {meta.stage}.")
