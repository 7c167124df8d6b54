"""Checkpoints in a store and pointers to them, as trainer and leader would have left them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch

from shared.base.clock import utc_now
from shared.base.ids import IdPrefix, new_id
from shared.contracts.manifest import MANIFEST_NAME, CheckpointMeta, Manifest
from shared.contracts.model_config import ModelConfig
from shared.contracts.serving import MODELS_INDEX_KEY, ModelPointer, ModelsIndex
from shared.model.canary import canary_loss
from shared.model.transformer import Transformer
from shared.storage.base import ObjectStore
from shared.storage.folders import describe_folder, store_folder
from shared.storage.keys import checkpoint_prefix
from tests.support.models import small_tokenizer, write_checkpoint

SMALL_MODELS = {
    "arcee": ModelConfig(
        family="arcee", vocab_size=300, context_length=64, num_layers=2, d_model=64, num_heads=2,
        d_ff=96,
    ),
    "llama": ModelConfig(
        family="llama", vocab_size=300, context_length=64, num_layers=2, d_model=64, num_heads=2,
        d_ff=96, tie_embeddings=False,
    ),
}  # fmt: skip


def random_model(config: ModelConfig, seed: int = 0) -> Transformer:
    """A model whose logits are far apart and depend on all of its weights and on all positions."""
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
        else:
            std = 1.5 * parameter.shape[1] ** -0.5
            torch.nn.init.normal_(parameter, std=std, generator=generator)
    return model.eval()


@torch.inference_mode()
def greedy_without_cache(model: Transformer, prompt: list[int], num_tokens: int) -> list[int]:
    """The slow twin: the whole sequence anew for each token."""
    ids = list(prompt)
    for _ in range(num_tokens):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


class Publisher:
    """Stores checkpoints and writes the index, with sequence numbers that rise."""

    def __init__(self, store: ObjectStore, folder: Path) -> None:
        self.store = store
        self._folder = folder
        self._seq = 0
        self._pointers: dict[str, ModelPointer] = {}
        self._start = utc_now() - timedelta(minutes=1)

    def publish(
        self,
        name: str,
        model: Transformer,
        *,
        stage: Literal["pretrain", "finetune"] = "pretrain",
        spoil: Callable[[Path], None] | None = None,
    ) -> ModelPointer:
        """Store `model` as the next version of `name` and point to it.

        `spoil` may change the folder before it is described, as a broken trainer would.
        """
        version = self._pointers[name].version + 1 if name in self._pointers else 1
        pointer = self.store_version(name, version, model, stage=stage, spoil=spoil)
        self.point_to(pointer)
        return pointer

    def store_version(
        self,
        name: str,
        version: int,
        model: Transformer,
        *,
        stage: Literal["pretrain", "finetune"] = "pretrain",
        spoil: Callable[[Path], None] | None = None,
    ) -> ModelPointer:
        """Store a checkpoint without pointing to it."""
        checkpoint_id, job_id = new_id(IdPrefix.CHECKPOINT), new_id(IdPrefix.JOB)
        folder = write_checkpoint(self._folder / checkpoint_id, model)
        if spoil:
            spoil(folder)
        manifest = Manifest(
            id=checkpoint_id,
            job_id=job_id,
            token=1,
            created_at=utc_now(),
            files=describe_folder(folder),
            meta=CheckpointMeta(
                step=version,
                stage=stage,
                model=model.config,
                tokenizer_sha256=small_tokenizer().sha256,
                canary_loss=canary_loss(model.config, model.state_dict(), small_tokenizer()),
            ),
        )
        prefix = checkpoint_prefix(job_id, 1, version)
        digest = store_folder(self.store, prefix, folder, manifest)
        self._seq += 1
        return ModelPointer(
            model=name,
            version=version,
            seq=self._seq,
            checkpoint_id=checkpoint_id,
            manifest_key=prefix + MANIFEST_NAME,
            manifest_sha256=digest,
            stage=stage,
            published_at=self._start + timedelta(seconds=self._seq),
        )

    def point_to(self, pointer: ModelPointer) -> None:
        """Write the index so that this version of its model is to be served."""
        self._seq += 1
        self._pointers.pop(pointer.model, None)
        self._pointers[pointer.model] = pointer.model_copy(update={"seq": self._seq})
        self.write_index()

    def retire(self, name: str) -> None:
        """Take a model out of the index."""
        del self._pointers[name]
        self.write_index()

    def write_index(self) -> None:
        """Write what the leader would write now."""
        self._seq += 1
        index = ModelsIndex(seq=self._seq, models=tuple(self._pointers.values()))
        self.store.put_bytes(MODELS_INDEX_KEY, index.model_dump_json().encode())
