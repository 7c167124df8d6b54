"""What every object store can do. Keys are `/`-separated; nothing here knows what objects mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An entry of a listing."""

    key: str
    modified_at: datetime
    """When it was stored, by the store's clock; aware."""


class ObjectStore(Protocol):
    """Objects by key: written whole, or not there.

    All methods raise `NotFoundError` for a missing key where one is read, and
    `UnavailableError` when the store cannot be reached.
    """

    def put_file(self, key: str, path: Path) -> None:
        """Store the file's content under `key`, replacing what is there."""

    def put_bytes(self, key: str, content: bytes) -> None:
        """Store `content` under `key`, replacing what is there."""

    def put_bytes_if_absent(self, key: str, content: bytes) -> bool:
        """Store `content` unless `key` exists; return whether it was stored."""

    def get_bytes(self, key: str) -> bytes:
        """Return the whole content; for small objects."""

    def stream(self, key: str, *, offset: int = 0) -> AbstractContextManager[Iterator[bytes]]:
        """Open the content from byte `offset` on, as chunks of up to 1 MiB."""

    def size(self, key: str) -> int | None:
        """Return the object's size in bytes, or None if there is no such object."""

    def list_keys(self, prefix: str) -> Iterator[str]:
        """Yield every key that starts with `prefix`, in lexical order."""

    def list_objects(self, prefix: str) -> Iterator[StoredObject]:
        """Yield every object whose key starts with `prefix`, in lexical order of the keys."""

    def remove_unfinished(self, *, older_than: datetime) -> None:
        """Remove what writers that were killed before then have left, if the server does not."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; a missing one is no error."""

    def check(self) -> None:
        """Raise `UnavailableError` unless the store answers and may be used."""
