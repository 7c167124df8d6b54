"""Folders to and from an object store, described by a manifest that is written last.

Nothing is trusted on the way back: each file must have the size and the digest its manifest says,
and the folder appears at its place whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from pydantic import ValidationError

from shared.base.errors import IntegrityError, InvalidInputError, NotFoundError
from shared.base.files import fsync_folder, sha256_of, write_bytes
from shared.contracts.manifest import MANIFEST_NAME, ROLE_OF_FILE, FileEntry, Manifest
from shared.contracts.names import FileRole
from shared.storage.base import ObjectStore


class Readable(Protocol):
    """What fetching needs of an object store."""

    def stream(self, key: str) -> AbstractContextManager[Iterator[bytes]]:
        """Open an object as chunks, as `ObjectStore.stream` does."""


def describe_folder(folder: Path) -> tuple[FileEntry, ...]:
    """Size, digest and role of every file below `folder`, by path; an old manifest is left out.

    Raises InvalidInputError for a symbolic link, which would not survive the store.
    """
    entries = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise InvalidInputError(f"{path} is a symbolic link; an artifact holds plain files.")
        if path.is_file() and relative != MANIFEST_NAME:
            entries.append(
                FileEntry(
                    path=relative,
                    bytes=path.stat().st_size,
                    sha256=sha256_of(path),
                    role=ROLE_OF_FILE.get(relative, FileRole.DATA),
                )
            )
    return tuple(entries)


def store_folder(store: ObjectStore, prefix: str, folder: Path, manifest: Manifest) -> str:
    """Upload the manifest's files from `folder` to `prefix` and the manifest last.

    Returns the manifest's sha256. A repetition after a failure overwrites what is there.
    """
    for entry in manifest.files:
        store.put_file(prefix + entry.path, folder / entry.path)
    content = manifest.model_dump_json().encode()
    store.put_bytes(prefix + MANIFEST_NAME, content)
    return hashlib.sha256(content).hexdigest()


def fetch_folder(
    store: Readable,
    prefix: str,
    manifest: Manifest,
    target: Path,
    roles: Collection[FileRole] = (),
) -> None:
    """Bring the manifest's files (those with one of `roles`, or all) to the folder `target`.

    `target` appears when every byte has been verified; if another thread or process has made it
    meanwhile, that one stays. Raises IntegrityError when an object is missing, too short, too long
    or changed, and leaves nothing behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid4().hex}.tmp")
    temporary.mkdir()
    try:
        for entry in manifest.with_roles(*roles):
            fetch_file(store, prefix + entry.path, entry, temporary / entry.path)
        write_bytes(temporary / MANIFEST_NAME, manifest.model_dump_json().encode())
        for folder in [path for path in temporary.rglob("*") if path.is_dir()]:
            fsync_folder(folder)
        _rename_unless_there(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fetch_file(store: Readable, key: str, entry: FileEntry, target: Path) -> None:
    """Download one object to `target`, fsynced, and verify it against `entry`.

    Raises IntegrityError; `target` may then hold a part. Use it on a temporary name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, received = hashlib.sha256(), 0
    try:
        with store.stream(key) as chunks, target.open("wb") as file:
            for chunk in chunks:
                received += len(chunk)
                if received > entry.bytes:
                    break
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except NotFoundError as error:
        raise IntegrityError(f"{key} is missing from the object store.") from error
    if received != entry.bytes:
        found = f"more than {entry.bytes}" if received > entry.bytes else str(received)
        raise IntegrityError(f"{key} has {found} bytes; its manifest says {entry.bytes}.")
    if digest.hexdigest() != entry.sha256:
        raise IntegrityError(f"{key} has another sha256 than its manifest says.")


def read_manifest(store: ObjectStore, key: str, *, sha256: str | None = None) -> Manifest:
    """Read and check a manifest; `sha256`, if given, is what its bytes must have.

    Raises NotFoundError when it is not there and IntegrityError when it is not what it should be.
    """
    content = store.get_bytes(key)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise IntegrityError(f"{key} has another sha256 than it was published with.")
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise IntegrityError(
            f"{key} is not a valid manifest: {error.errors()[0]['msg']}."
        ) from error


def _rename_unless_there(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)  # onto a folder with content this fails
    except OSError:
        if not target.is_dir():
            raise
    fsync_folder(target.parent)
