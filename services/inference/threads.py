"""How engine and loader share the cores of this process. Knows no model.

Loading computes with one thread (see `shared.model.threads`), and the engine leaves it a core
meanwhile: an operator that is split over several threads waits for the last of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from shared.model.threads import one_thread


class Cores:
    """The engine's `num_threads`, and who else computes right now."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._lock = threading.Lock()
        self._num_loading = 0

    def for_engine(self) -> int:
        """Threads that the engine may use for its next step."""
        return max(1, self._num_threads - self._num_loading)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Compute beside the engine, with one thread."""
        with one_thread():
            self._count(1)
            try:
                yield
            finally:
                self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self._num_loading += change


class ThreadCount:
    """The number of threads that torch uses in the one thread that asks here."""

    def __init__(self) -> None:
        # torch takes its default over when a thread first asks, and would overwrite what is set.
        self._present = torch.get_num_threads()

    def set(self, wanted: int) -> None:
        """Use so many from now on."""
        if wanted != self._present:
            torch.set_num_threads(wanted)
            self._present = wanted
