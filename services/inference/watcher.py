"""Follows the published pointers: polls one small object, loads what is new beside what is served.

The store alone is asked, never the database. Whatever fails, the version being served stays, the
reason is kept, and a version that is itself bad is not tried again until something else is
published; a store that is away is.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
import time
from datetime import datetime
from typing import Protocol

from pydantic import ValidationError

from services.inference.draining import Draining
from services.inference.loader import LoadStage, ModelLoader
from services.inference.registry import ModelRegistry
from shared.base.clock import utc_now
from shared.base.errors import NotFoundError, PlatformError, UnavailableError
from shared.contracts.serving import MODELS_INDEX_KEY, ModelPointer, ModelsIndex
from shared.storage.base import ObjectStore

logger = logging.getLogger(__name__)

JITTER = 0.2
LONGEST_BACKOFF_SECONDS = 300.0
DRAIN_LOOK_SECONDS = 0.05
"""How often it is looked whether an older version has answered its last request."""
NICENESS = 5
"""A version that comes half a second later is better than answers that falter."""


class SwapObserver(Protocol):
    """Told how swaps went, for metrics."""

    def on_swap(self, pointer: ModelPointer, seconds: float | None) -> None:
        """A version is served, so many seconds after its publication; None where that was long
        ago: at start, and when a pin is set or lifted."""

    def on_swap_failure(self, pointer: ModelPointer, stage: LoadStage) -> None:
        """A version is not served because of what happened at `stage`."""


class ModelWatcher:
    """A thread around `poll`."""

    def __init__(
        self,
        store: ObjectStore,
        loader: ModelLoader,
        registry: ModelRegistry,
        draining: Draining,
        observer: SwapObserver,
        *,
        interval_seconds: float,
    ) -> None:
        self._store = store
        self._loader = loader
        self._registry = registry
        self._interval = interval_seconds
        self._draining = draining
        self._observer = observer
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="model-watcher", daemon=True)
        self._seen: ModelsIndex | None = None
        self._retry_at: dict[str, float] = {}
        self._previous: dict[str, str] = {}  # checkpoints kept on disk for a quick way back
        self._held_back: set[str] = set()  # models with a version that waits for another's end
        self._started = utc_now()
        self._published: dict[str, datetime] = {}
        self._reachable = True
        self.last_read = time.monotonic()
        """When the index was last read."""

    def start(self) -> None:
        """Start polling."""
        self._thread.start()

    def stop(self) -> None:
        """Stop polling; a load in progress is waited for."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        """Poll now: something may have been published."""
        self._wake.set()

    def poll(self) -> None:
        """Read the index once and bring what is served in line with it."""
        index = self._read_index()
        if index is None:
            return
        self._seen = index
        self._registry.announce([pointer.model for pointer in index.models])
        self._held_back.clear()
        changed = False
        for pointer in index.models:
            if not self._stopping.is_set() and self._wants(pointer):
                changed |= self._swap(pointer)
        if changed:
            served = {model.pointer.checkpoint_id for model in self._registry.models()}
            self._loader.prune(served | set(self._previous.values()))
        self._loader.release_freed()

    def _loop(self) -> None:
        if sys.platform == "linux":
            os.nice(NICENESS)  # of this thread alone, there
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self.poll()
            except Exception:  # the boundary of the watcher's thread: it must never end
                logger.exception("Polling the published models failed")
            self._wait(self._interval * random.uniform(1 - JITTER, 1 + JITTER))

    def _wait(self, seconds: float) -> None:
        """Until the next poll: `seconds`, or less if somebody asks or a version has drained."""
        until = time.monotonic() + seconds
        while self._held_back and time.monotonic() < until:
            if self._wake.wait(DRAIN_LOOK_SECONDS):
                return
            if not all(map(self._draining.blocks, self._held_back)):
                return
        self._wake.wait(max(0.0, until - time.monotonic()))

    def _read_index(self) -> ModelsIndex | None:
        """The index, or None when there is nothing to be learned from the store now."""
        try:
            index = ModelsIndex.model_validate_json(self._store.get_bytes(MODELS_INDEX_KEY))
        except NotFoundError:
            # Nothing is published yet; or, later, the store has been emptied, which is no reason
            # to stop serving.
            index = self._seen or ModelsIndex(seq=0)
        except (UnavailableError, ValidationError) as error:
            if self._reachable:
                logger.warning("The index of published models cannot be read: %s", error)
            self._reachable = False
            return None
        self._reachable = True
        self.last_read = time.monotonic()
        return index

    def _wants(self, pointer: ModelPointer) -> bool:
        present = self._registry.pointer(pointer.model)
        if present is not None and pointer.seq < present.seq:
            return False  # an old index, read late or written by a leader that is none any more
        if present is not None and _same_version(present, pointer):
            self._registry.confirm(pointer)  # perhaps rolled back to from a bad version
            return False
        if self._draining.blocks(pointer.model):
            self._held_back.add(pointer.model)
            return False  # what is newest when it has ended is loaded then
        failure = self._registry.failure(pointer.model)
        if failure is None or failure.pointer.manifest_sha256 != pointer.manifest_sha256:
            return True
        return failure.retryable and time.monotonic() >= self._retry_at[pointer.model]

    def _swap(self, pointer: ModelPointer) -> bool:
        try:
            model = self._loader.load(pointer)
        except Exception as error:  # noqa: BLE001 - whatever it is, the old version must go on
            self._fail(pointer, error)
            return False
        replaced = self._registry.install(model)
        if replaced is not None:
            self._previous[pointer.model] = replaced.pointer.checkpoint_id
            self._draining.begin(replaced, model)
        self._observer.on_swap(pointer, self._seconds_since_publication(pointer))
        logger.info("Serving %s:%s", pointer.model, pointer.version)
        return True

    def _seconds_since_publication(self, pointer: ModelPointer) -> float | None:
        newest = self._published.get(pointer.model, self._started)
        if pointer.published_at <= newest:
            return None
        self._published[pointer.model] = pointer.published_at
        return max(0.0, (utc_now() - pointer.published_at).total_seconds())

    def _fail(self, pointer: ModelPointer, error: Exception) -> None:
        retryable = not isinstance(error, PlatformError) or isinstance(
            error, UnavailableError | NotFoundError
        )
        reason = str(error) or type(error).__name__
        failure = self._registry.record_failure(pointer, reason, retryable=retryable)
        backoff = min(LONGEST_BACKOFF_SECONDS, self._interval * 2.0**failure.attempts)
        self._retry_at[pointer.model] = time.monotonic() + backoff
        self._observer.on_swap_failure(pointer, self._loader.stage)
        expected = isinstance(error, PlatformError)
        logger.error(
            "%s:%s is not served: %s",
            pointer.model,
            pointer.version,
            reason,
            exc_info=None if expected else error,
        )


def _same_version(one: ModelPointer, other: ModelPointer) -> bool:
    return (one.version, one.manifest_sha256) == (other.version, other.manifest_sha256)
