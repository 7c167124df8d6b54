"""One training job a GPU: a lock file per GPU, named by its UUID, that ends with its process.

Trainers that share the folder (several slots, several containers of one machine) may all see all
GPUs: each job takes the first that is free and waits while there is none. Knows no torch.
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


def lock_gpu(
    folder: Path,
    uuids: Sequence[str],
    *,
    report: Callable[[ProgressMessage], None],
    stopping: Callable[[], bool],
) -> int | None:
    """Lock one of the GPUs until this process ends and return its index in `uuids`.

    Waits while others hold all of them; returns None when `stopping` says so before one is free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    last_sign = 0.0
    while (index := _try_each(folder, uuids)) is None and not stopping():
        if not last_sign:
            report(NoticeLine(message=_all_taken(folder, len(uuids))))
        if time.monotonic() - last_sign >= SIGN_OF_LIFE_SECONDS:
            last_sign = time.monotonic()
            report(PhaseLine(phase=WAITING_PHASE))
        time.sleep(POLL_SECONDS)
    return index


def _try_each(folder: Path, uuids: Sequence[str]) -> int | None:
    for index, uuid in enumerate(uuids):
        descriptor = os.open(folder / f"{uuid}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            return index  # the descriptor stays open, and with it the lock, until we end
    return None


def _all_taken(folder: Path, num_gpus: int) -> str:
    which = "The GPU is" if num_gpus == 1 else f"All {num_gpus} GPUs are"
    return f"{which} taken by other training jobs (locks in {folder}); this one waits."
