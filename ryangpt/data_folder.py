"""The folder where embedded mode keeps everything: whose it is, which version, who uses it now."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.base.errors import StartupError
from shared.base.files import write_bytes

FORMAT = "ryan-gpt data folder 1"
"""What the version file holds; the number rises when older folders can no longer be read."""
VERSION_FILE = "version"
LOCK_FILE = "lock"


@contextmanager
def open_data_folder(path: Path) -> Iterator[Path]:
    """Create or open the data folder and keep it to ourselves; yield its absolute path.

    Raises StartupError when it cannot be written, belongs to something else, has another version,
    or is in use.
    """
    folder = path.expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_version(folder)
        with _lock(folder):
            _write_version(folder)
            yield folder
    except OSError as error:
        if not isinstance(error.filename, str) or not error.filename.startswith(str(folder)):
            raise
        raise StartupError(
            f"The data folder {folder} cannot be used: {error.strerror}.",
            hint="Choose another one with --data_dir or RYANGPT_DATA_DIR.",
        ) from error


def check_deletable(folder: Path) -> None:
    """Raise StartupError when the folder is not ours or in use."""
    if not (folder / VERSION_FILE).is_file():
        raise StartupError(f"{folder} is not a data folder of Ryan-GPT; nothing was deleted.")
    with _lock(folder):
        pass


def delete_data_folder(folder: Path) -> None:
    """Delete the data folder; raise StartupError when it is not ours or in use."""
    check_deletable(folder)
    with _lock(folder):
        shutil.rmtree(folder)


def _check_version(folder: Path) -> None:
    version = folder / VERSION_FILE
    if version.is_file():
        found = version.read_text("utf-8", errors="replace").strip()
        if found != FORMAT:
            raise StartupError(
                f"The data folder {folder} has another version ({found[:60]!r}, not {FORMAT!r}).",
                hint="Use the matching Ryan-GPT, another folder (--data_dir), or `ryangpt reset`.",
            )
    elif any(entry.name != LOCK_FILE for entry in folder.iterdir()):
        raise StartupError(
            f"{folder} holds files, but is not a data folder of Ryan-GPT.",
            hint="Choose an empty or new folder with --data_dir or RYANGPT_DATA_DIR.",
        )


def _write_version(folder: Path) -> None:
    if not (folder / VERSION_FILE).is_file():
        write_bytes(folder / VERSION_FILE, f"{FORMAT}\n".encode())


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            raise StartupError(
                f"The data folder {folder} is in use by another `ryangpt up` (process {owner})."
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
