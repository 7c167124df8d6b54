"""Writes the objects by which the inference service learns what to serve, from the models' rows.

Only the leader calls this. A crash between the objects and the row leaves the row dirty, and the
pointer is written again under a higher number.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pydantic import ValidationError
from sqlalchemy.orm import Session

from shared.base.errors import NotFoundError
from shared.contracts.manifest import MANIFEST_NAME
from shared.contracts.names import HintChannel
from shared.contracts.serving import MODELS_INDEX_KEY, ModelPointer, ModelsIndex, pointer_key
from shared.db.repositories import checkpoints, models
from shared.db.session import Database
from shared.db.tables import CheckpointRow, ModelRow
from shared.storage.base import ObjectStore

logger = logging.getLogger(__name__)
Document = TypeVar("Document", ModelPointer, ModelsIndex)


class HintSender(Protocol):
    """What is needed of `queue.Hints`."""

    def publish(self, channel: HintChannel, payload: str) -> None:
        """Send a hint; never raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """What one model is to serve, as its row said when it was read."""

    model: ModelRow
    version: int
    checkpoint: CheckpointRow


def write_dirty_pointers(database: Database, store: ObjectStore, hints: HintSender) -> list[str]:
    """Bring the pointers that are behind up to date; return the names of their models.

    Order: `models/<name>/latest.json`, then `models/index.json`, then the rows, then the hint.
    Raises UnavailableError when database or store is away; calling again goes on.
    """
    with database.reading() as session:
        if not models.dirty_models(session):
            return []
        choices = [
            choice for row in models.list_models(session) if (choice := _choice(session, row))
        ]
    written: dict[str, ModelPointer] = {}
    for choice in choices:
        if choice.model.pointer_dirty:
            written[choice.model.name] = _write_pointer(store, choice)
    _write_index(store, choices, written)
    with database.transaction() as session:
        for choice in choices:
            pointer = written.get(choice.model.name)
            if pointer is not None:
                models.mark_pointer_written(
                    session,
                    choice.model.name,
                    served=choice.model.served_version,
                    pinned=choice.model.pinned_version,
                    seq=pointer.seq,
                )
    for pointer in written.values():
        logger.info("Model %s now serves version %d.", pointer.model, pointer.version)
        hints.publish(HintChannel.MODELS, json.dumps({"model": pointer.model, "seq": pointer.seq}))
    return list(written)


def _choice(session: Session, row: ModelRow) -> _Choice | None:
    number = row.pinned_version or row.served_version
    version = None if number is None else models.find_version(session, row.name, number)
    if version is None:
        return None
    checkpoint = checkpoints.find_checkpoint(session, version.checkpoint_id)
    if checkpoint is None:
        return None
    return _Choice(model=row, version=version.version, checkpoint=checkpoint)


def _write_pointer(store: ObjectStore, choice: _Choice) -> ModelPointer:
    key = pointer_key(choice.model.name)
    present = _read(store, key, ModelPointer)
    seq = max(choice.model.pointer_seq, present.seq if present else 0) + 1
    pointer = _pointer(choice, seq)
    store.put_bytes(key, pointer.model_dump_json(indent=2).encode())
    return pointer


def _write_index(
    store: ObjectStore, choices: list[_Choice], written: dict[str, ModelPointer]
) -> None:
    present = _read(store, MODELS_INDEX_KEY, ModelsIndex)
    listed = sorted(choices, key=lambda choice: (choice.model.published_at, choice.model.name))
    index = ModelsIndex(
        seq=(present.seq if present else 0) + 1,
        models=tuple(
            written.get(choice.model.name) or _pointer(choice, choice.model.pointer_seq)
            for choice in listed
        ),
    )
    store.put_bytes(MODELS_INDEX_KEY, index.model_dump_json(indent=2).encode())


def _pointer(choice: _Choice, seq: int) -> ModelPointer:
    checkpoint = choice.checkpoint
    return ModelPointer.model_validate(
        {
            "model": choice.model.name,
            "version": choice.version,
            "seq": seq,
            "checkpoint_id": checkpoint.id,
            "manifest_key": f"{checkpoint.prefix}{MANIFEST_NAME}",
            "manifest_sha256": checkpoint.manifest_sha256,
            "stage": checkpoint.stage,
            "published_at": choice.model.published_at,
            "pinned": choice.model.pinned_version is not None,
        }
    )


def _read(store: ObjectStore, key: str, contract: type[Document]) -> Document | None:
    try:
        return contract.model_validate_json(store.get_bytes(key))
    except NotFoundError:
        return None
    except ValidationError as error:
        logger.warning("Object %s cannot be read and is replaced: %s", key, error)
        return None
