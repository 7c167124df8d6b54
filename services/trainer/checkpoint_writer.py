"""A thread that writes one checkpoint at a time while training goes on. Knows no checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self


class CheckpointWriter:
    """At most one piece of writing is under way; leaving the context waits for it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Write in the background. Call `wait` first: what is being written must not change."""
        self._writing = self._thread.submit(write)

    def wait(self) -> None:
        """Return when nothing is being written; raises what the writing raised."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """An error of the last writing is raised, unless another one is on its way already."""
        self._thread.shutdown()
        if error is None:
            self.wait()
