"""What the services agree on about serving: the size of a request, and the pointer objects.

By the pointers inference learns what to serve. Only the leader writes them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from shared.contracts.base import Contract
from shared.contracts.manifest import Sha256
from shared.contracts.specs import ModelName

MODELS_INDEX_KEY = "models/index.json"
MAX_INFERENCE_BODY_BYTES = 4 << 20
"""Largest request that inference answers, directly or through the API; a whole context of the
longest model is far below."""


def pointer_key(model: str) -> str:
    """Object key of a model's pointer."""
    return f"models/{model}/latest.json"


class ModelPointer(Contract):
    """`models/<name>/latest.json`: the version of one model that is to be served."""

    model: ModelName
    version: int = Field(ge=1)
    seq: int = Field(ge=1)
    """Rises with every write, also when the version goes back."""
    checkpoint_id: str
    manifest_key: str
    """Object key of the checkpoint's manifest."""
    manifest_sha256: Sha256
    stage: Literal["pretrain", "finetune"]
    published_at: datetime
    """When the model's newest version was published; a pin does not change it."""
    pinned: bool = False
    """Whether this version is served whatever is published later."""


class ModelsIndex(Contract):
    """`models/index.json`: all models that have a pointer."""

    seq: int = Field(ge=0)
    models: tuple[ModelPointer, ...] = ()
    """In order of publication, newest last."""
