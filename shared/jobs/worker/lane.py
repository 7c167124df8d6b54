"""The slots of one queue in a worker, several of which one job may take: a GPU each.

A job that needs more than are free waits, and nothing is claimed past it: otherwise small jobs
would keep a large one out for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from shared.base.settings import Settings
from shared.contracts.names import Queue
from shared.db.tables import JobRow
from shared.jobs.worker.workshop import Place

NICENESS_OF_QUEUE = {Queue.TOKENIZER: 5, Queue.TRAINER_GPU: 0, Queue.TRAINER_LIGHT: 5}
"""The training program lowers itself; what runs beside it yields to it."""


class Lane:
    """Which of `total` slots are free; safe for all threads of the worker."""

    def __init__(self, settings: Settings, queue: Queue, total: int) -> None:
        self.queue, self.total = queue, total
        self._settings = settings
        self._lock = threading.Lock()
        self._free = set(range(total))
        self._rings: list[Callable[[], None]] = []

    def ring_when_free(self, ring: Callable[[], None]) -> None:
        """Call `ring` whenever slots have become free."""
        self._rings.append(ring)

    def claim(self, take: Callable[[int], JobRow | None]) -> tuple[JobRow, tuple[int, ...]] | None:
        """Let `take` claim a job of at most so many slots; returns it with the slots it has now."""
        with self._lock:
            if not self._free:
                return None
            job = take(len(self._free))
            if job is None:
                return None
            slots = tuple(sorted(self._free)[: job.num_slots])
            self._free -= set(slots)
            return job, slots

    @contextmanager
    def occupied(self, slots: Iterable[int]) -> Iterator[None]:
        """Give the slots back at the end."""
        try:
            yield
        finally:
            with self._lock:
                self._free |= set(slots)
            for ring in self._rings:
                ring()

    def place(self, slots: tuple[int, ...]) -> Place:
        """What a job in these slots may use of the machine."""
        environment = {}
        if self.queue is Queue.TRAINER_GPU:
            cache = self._settings.compile_cache or self._settings.data_dir / "cache" / "compile"
            environment["TORCHINDUCTOR_CACHE_DIR"] = str(cache.resolve())
        if self.queue is Queue.TRAINER_GPU and self.total > 1:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, slots))
        threads = self._settings.resolved_num_threads * len(slots) // self.total
        return Place(
            num_threads=max(1, threads),
            environment=environment,
            niceness=NICENESS_OF_QUEUE[self.queue],
            processes=len(slots),
        )
