"""One training job a GPU: a lock file per GPU, named by its UUID, that ends with its process.

Trainers that share the folder (several slots, several containers of one machine) may all see all
GPUs: each job takes the first that are free and waits while there are too few. Knows no torch.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from shared.contracts.progress import NoticeLine, PhaseLine, ProgressMessage

POLL_SECONDS = 0.5
SIGN_OF_LIFE_SECONDS = 30.0
"""While it waits, a job says so this often, or it would be taken for hung."""
WAITING_PHASE = "waiting for a GPU"
GATE = "gate.lock"
"""Held while a job looks for GPUs: two that want several could each find a part taken for ever."""


def lock_gpus(folder: Path, uuids: Sequence[str], count: int) -> list[int]:
    """Lock `count` of the GPUs until this process ends; return their indices in `uuids`.

    All or nothing: while fewer are free, none is held and the list is empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held: dict[int, int] = {}
    gate = _open(folder / GATE)
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)
        for index, uuid in enumerate(uuids):
            if len(held) < count and (descriptor := _try(folder / f"{uuid}.lock")) is not None:
                held[index] = descriptor
        if len(held) == count:
            return list(held)  # the descriptors stay open, and with them the locks
        for descriptor in held.values():
            os.close(descriptor)
        return []
    finally:
        os.close(gate)


def wait_for_gpus(
    attempt: Callable[[], list[int]],
    *,
    taken: str,
    report: Callable[[ProgressMessage], None],
    stopping: Callable[[], bool],
) -> list[int]:
    """Repeat `attempt` until it yields; an empty list when `stopping` says so before.

    Reports the sentence `taken` once, if there is something to wait for.
    """
    last_sign = 0.0
    while not (indices := attempt()) and not stopping():
        if not last_sign:
            report(NoticeLine(message=taken))
        if time.monotonic() - last_sign >= SIGN_OF_LIFE_SECONDS:
            last_sign = time.monotonic()
            report(PhaseLine(phase=WAITING_PHASE))
        time.sleep(POLL_SECONDS)
    return indices


def all_taken(folder: Path, wanted: int, seen: int) -> str:
    """Why a job waits."""
    if seen == 1:
        return f"The GPU is taken by another training job (locks in {folder}); this one waits."
    return (
        f"Fewer than {wanted} of {seen} GPUs are free of other training jobs (locks in {folder}); "
        "this one waits."
    )


def _try(path: Path) -> int | None:
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
