"""A worker's cache of downloaded inputs: verified, bounded, shared by all processes of a machine.

Each entry has a lock file. A reader holds its lock shared while a job runs; who downloads or
removes the entry holds it alone. The kernel lets go of the locks of a process that dies.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from shared.base.files import folder_bytes

logger = logging.getLogger(__name__)


class InputCache:
    """Folders by name below `root`; the longest unused ones go when `max_bytes` are exceeded."""

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self._root = root.resolve()
        self._locks = self._root / ".locks"
        self._max_bytes = max_bytes

    @contextmanager
    def hold(self, name: str, num_bytes: int, fetch: Callable[[Path], None]) -> Iterator[Path]:
        """Yield the entry's folder, which stays there as long as this is entered.

        If it is not there, `fetch(target)` must make the folder `target` in one rename, complete
        and verified; `num_bytes` of room are made before. An entry larger than the whole cache is
        kept while it is used.
        """
        self._locks.mkdir(parents=True, exist_ok=True)
        folder = self._root / name
        with self._open_lock(name) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            while not folder.is_dir():
                # A lock cannot be exchanged in one step, so what was found is looked at again.
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not folder.is_dir():
                    self._make_room(num_bytes)
                    fetch(folder)
                fcntl.flock(lock, fcntl.LOCK_SH)
            os.utime(folder)
            yield folder

    def remove_leftovers(self) -> None:
        """Remove half-made and half-removed entries of processes that were killed."""
        for path in self._root.glob(".*.trash"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self._root.glob(".*.tmp"):
            name = path.name[1:].rsplit(".", 2)[0]
            with self._open_lock(name) as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # it is being made right now
                shutil.rmtree(path, ignore_errors=True)

    def _make_room(self, num_bytes: int) -> None:
        entries = [path for path in self._root.iterdir() if not path.name.startswith(".")]
        sizes = {path: folder_bytes(path) for path in entries}
        excess = sum(sizes.values()) + num_bytes - self._max_bytes
        for path in sorted(entries, key=_last_used):
            if excess <= 0:
                return
            if self._remove_unless_held(path):
                excess -= sizes[path]
        if excess > 0:
            logger.warning("The cache of inputs is over its bound: all of it is in use.")

    def _remove_unless_held(self, folder: Path) -> bool:
        with self._open_lock(folder.name) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            trash = self._root / f".{folder.name}.{uuid4().hex}.trash"
            folder.rename(trash)  # so that nobody ever sees a part of an entry
        shutil.rmtree(trash)
        return True

    @contextmanager
    def _open_lock(self, name: str) -> Iterator[int]:
        descriptor = os.open(self._locks / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            yield descriptor
        finally:
            os.close(descriptor)  # which also lets go of the lock


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0  # another process has just removed it
