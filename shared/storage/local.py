"""An object store in a local folder: one file an object, written beside and renamed."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO
from uuid import uuid4

from shared.base.errors import InvalidInputError, NotFoundError, UnavailableError
from shared.base.files import CHUNK_BYTES, atomic_write, fsync_folder
from shared.contracts.names import FailureCode
from shared.storage.base import StoredObject

_TEMPORARY_NAME = re.compile(r"\.(.*)\.[0-9a-f]{32}\.tmp")
_MAX_RACES = 20
"""How often a folder may vanish under a write (a delete prunes empty ones) before giving up."""


class LocalStore:
    """Objects as files below `root`; the key is the path. Satisfies `ObjectStore`."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)

    def put_file(self, key: str, path: Path) -> None:
        """Store the file's content under `key`, replacing what is there."""
        with path.open("rb") as source:
            self._put(key, source)

    def put_bytes(self, key: str, content: bytes) -> None:
        """Store `content` under `key`, replacing what is there."""
        self._put(key, io.BytesIO(content))

    def put_bytes_if_absent(self, key: str, content: bytes) -> bool:
        """Store `content` unless `key` exists; of several callers exactly one stores.

        A hard link fails when its name is taken, and the content is complete before it has one.
        """
        path = self._path(key)
        with _translated_errors(key):
            for _ in range(_MAX_RACES):
                path.parent.mkdir(parents=True, exist_ok=True)
                complete = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
                try:
                    with atomic_write(complete) as file:
                        file.write(content)
                    os.link(complete, path)
                    fsync_folder(path.parent)
                except FileExistsError:
                    return False
                except FileNotFoundError:
                    continue
                finally:
                    complete.unlink(missing_ok=True)
                return True
        raise UnavailableError(f"The folder of object {key!r} keeps vanishing.", code="storage")

    def get_bytes(self, key: str) -> bytes:
        """Return the whole content."""
        with _translated_errors(key):
            return self._path(key).read_bytes()

    @contextmanager
    def stream(self, key: str, *, offset: int = 0) -> Iterator[Iterator[bytes]]:
        """Open the content from byte `offset` on, as chunks of up to 1 MiB."""
        with _translated_errors(key):
            file = self._path(key).open("rb")
        with file:
            file.seek(offset)
            yield iter(lambda: file.read(CHUNK_BYTES), b"")

    def size(self, key: str) -> int | None:
        """Return the object's size in bytes, or None if there is no such object."""
        path = self._path(key)
        return path.stat().st_size if path.is_file() else None

    def list_keys(self, prefix: str) -> Iterator[str]:
        """Yield every key that starts with `prefix`, in lexical order."""
        folder = self.root
        if "/" in prefix:
            folder = self._path(prefix.rpartition("/")[0])
        found = (
            path.relative_to(self.root).as_posix()
            for path in folder.rglob("*")
            if not _TEMPORARY_NAME.fullmatch(path.name) and path.is_file()
        )
        yield from sorted(key for key in found if key.startswith(prefix))

    def list_objects(self, prefix: str) -> Iterator[StoredObject]:
        """Yield every object whose key starts with `prefix`, in lexical order of the keys."""
        for key in self.list_keys(prefix):
            with suppress(FileNotFoundError):  # deleted meanwhile
                modified = self._path(key).stat().st_mtime
                yield StoredObject(key=key, modified_at=datetime.fromtimestamp(modified, UTC))

    def remove_unfinished(self, *, older_than: datetime) -> None:
        """Remove temporary files that killed writers have left."""
        for path in self.root.rglob(".*.tmp"):
            with suppress(FileNotFoundError):
                if (
                    _TEMPORARY_NAME.fullmatch(path.name)
                    and path.stat().st_mtime < older_than.timestamp()
                ):
                    path.unlink()

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, and the folders that are empty without them."""
        for key in keys:
            path = self._path(key)
            with _translated_errors(key), suppress(FileNotFoundError):
                path.unlink()
                self._prune(path.parent)

    def check(self) -> None:
        """Raise `UnavailableError` unless the folder is there and may be written."""
        if not self.root.is_dir() or not os.access(self.root, os.W_OK | os.X_OK):
            raise UnavailableError(
                f"The object folder {self.root} is missing or cannot be written.",
                code="storage",
                hint="Check its owner and that its disk is mounted.",
            )

    def _put(self, key: str, source: IO[bytes]) -> None:
        path = self._path(key)
        with _translated_errors(key):
            for _ in range(_MAX_RACES):
                try:
                    with atomic_write(path) as target:
                        source.seek(0)
                        shutil.copyfileobj(source, target, CHUNK_BYTES)
                except FileNotFoundError:
                    continue
                return
        raise UnavailableError(f"The folder of object {key!r} keeps vanishing.", code="storage")

    def _prune(self, folder: Path) -> None:
        while folder != self.root:
            try:
                folder.rmdir()
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.ENOENT, errno.EEXIST):
                    return
                raise
            folder = folder.parent

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if {"", ".", ".."} & set(parts) or "\0" in key or _TEMPORARY_NAME.fullmatch(parts[-1]):
            raise InvalidInputError(f"{key!r} is not a usable object key.")
        path = self.root.joinpath(*parts)
        if not path.resolve().is_relative_to(self.root):
            raise InvalidInputError(f"The object key {key!r} leads out of the store.")
        return path


@contextmanager
def _translated_errors(key: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise NotFoundError(f"There is no object {key!r}.", code="no_object") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise UnavailableError(
            f"Object {key!r} cannot be read or written: {error.strerror}.",
            code=FailureCode.STORAGE_FULL if full else "storage",
            hint="Free some space on the disk of the object folder." if full else None,
        ) from error
