"""A model watcher over a store, polled by hand, and what the engine would tell it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.inference.draining import Draining
from services.inference.loaded_model import LoadedModel
from services.inference.loader import LoadStage, ModelLoader
from services.inference.registry import ModelRegistry
from services.inference.runtime import Runtime, open_runtime
from services.inference.watcher import ModelWatcher
from shared.base.errors import UnavailableError
from shared.base.settings import Settings
from shared.contracts.serving import ModelPointer
from shared.storage.local import LocalStore
from tests.support.serving import Publisher


class FlakyStore(LocalStore):
    """A local store that can be away."""

    away = False

    def get_bytes(self, key: str) -> bytes:
        if self.away:
            raise UnavailableError("The store cannot be reached.")
        return super().get_bytes(key)


class FollowingSite:
    """A watcher over a store, polled by hand."""

    def __init__(
        self,
        folder: Path,
        *,
        drain_seconds: float = 3600.0,
        interval_seconds: float = 0.0,
        open_with: Callable[[Settings], Runtime] = open_runtime,
        **settings: Any,
    ) -> None:
        self.store = FlakyStore(folder / "objects")
        self.publisher = Publisher(self.store, folder / "work")
        self.folder = folder / "inference"
        self.registry = ModelRegistry()
        self.swaps: list[tuple[int, bool]] = []
        self.swap_seconds: list[float | None] = []
        self.failed_at: LoadStage | None = None
        self.busy: set[int] = set()
        """Versions that requests are bound to."""
        self.retired: list[int] = []
        self.replaced: list[tuple[int, int]] = []
        self.runtime = open_with(Settings(device="cpu", num_threads=1, **settings))
        self.loads: list[int] = []
        loader = ModelLoader(self.store, self.folder, self.runtime)
        real_load = loader.load

        def counting_load(pointer: ModelPointer) -> Any:
            self.loads.append(pointer.version)
            return real_load(pointer)

        loader.load = counting_load  # type: ignore[method-assign]
        self.watcher = ModelWatcher(
            self.store,
            loader,
            self.registry,
            Draining(self, seconds=drain_seconds),
            self,
            interval_seconds=interval_seconds,
        )

    def on_swap(self, pointer: ModelPointer, seconds: float | None) -> None:
        self.swap_seconds.append(seconds)
        self.swaps.append((pointer.version, True))

    def on_swap_failure(self, pointer: ModelPointer, stage: LoadStage) -> None:
        self.swaps.append((pointer.version, False))
        self.failed_at = stage

    def uses(self, model: LoadedModel) -> bool:
        return model.version in self.busy

    def replace(self, old: LoadedModel, new: LoadedModel) -> None:
        self.replaced.append((old.version, new.version))

    def retire(self, model: LoadedModel) -> None:
        self.retired.append(model.version)
        self.busy.discard(model.version)

    def poll(self) -> None:
        self.watcher.poll()

    def version(self, name: str = "demo") -> int | None:
        served = self.registry.served(name)
        return served.version if served else None

    def reason(self, name: str = "demo") -> str | None:
        failure = self.registry.failure(name)
        return failure.reason if failure else None
