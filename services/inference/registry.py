"""Which models are served right now, by name, and what went wrong with newer versions of them."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from services.inference.loaded_model import LoadedModel
from shared.base.clock import utc_now
from shared.base.errors import NotFoundError, UnavailableError
from shared.contracts.serving import ModelPointer

RETRY_AFTER_SECONDS = 5


class ModelNotFoundError(NotFoundError):
    """No model of that name is published."""

    code = "model_not_found"


class ModelNotReadyError(UnavailableError):
    """Nothing can answer yet."""

    code = "model_not_ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapFailure:
    """Why a published version is not served."""

    pointer: ModelPointer
    reason: str
    retryable: bool
    """Whether it will be tried again although nothing was published meanwhile."""
    attempts: int
    at: datetime


class ModelRegistry:
    """Thread-safe. A request keeps the LoadedModel it was given, whatever happens here later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[str, LoadedModel] = {}
        self._pointers: dict[str, ModelPointer] = {}
        self._failures: dict[str, SwapFailure] = {}
        self._announced: frozenset[str] = frozenset()

    def install(self, model: LoadedModel) -> LoadedModel | None:
        """Serve `model` from now on; return the version of its name that it replaces, if any."""
        with self._lock:
            replaced = self._models.get(model.name)
            self._models[model.name] = model
            self._pointers[model.name] = model.pointer
            self._failures.pop(model.name, None)
            return replaced

    def confirm(self, pointer: ModelPointer) -> None:
        """What is served is what `pointer` wants; a newer version that failed is not wanted."""
        with self._lock:
            self._pointers[pointer.model] = pointer
            self._failures.pop(pointer.model, None)

    def pointer(self, name: str) -> ModelPointer | None:
        """The last pointer that named the version that is served."""
        with self._lock:
            return self._pointers.get(name)

    def record_failure(self, pointer: ModelPointer, reason: str, *, retryable: bool) -> SwapFailure:
        """Remember why `pointer` is not served; the older version goes on."""
        with self._lock:
            before = self._failures.get(pointer.model)
            same = before is not None and before.pointer == pointer
            failure = SwapFailure(
                pointer=pointer,
                reason=reason,
                retryable=retryable,
                attempts=before.attempts + 1 if before and same else 1,
                at=utc_now(),
            )
            self._failures[pointer.model] = failure
            return failure

    def announce(self, names: Collection[str]) -> None:
        """Set which models are published; others are not served any longer."""
        with self._lock:
            self._announced = frozenset(names)
            for gone in (self._models.keys() | self._failures.keys()) - self._announced:
                self._models.pop(gone, None)
                self._pointers.pop(gone, None)
                self._failures.pop(gone, None)

    def served(self, name: str) -> LoadedModel | None:
        """The version of `name` that is served."""
        with self._lock:
            return self._models.get(name)

    def failure(self, name: str) -> SwapFailure | None:
        """What is wrong with the newest version of `name`, if something is."""
        with self._lock:
            return self._failures.get(name)

    def models(self) -> list[LoadedModel]:
        """All that is served, newest publication first."""
        with self._lock:
            models = list(self._models.values())
        return sorted(models, key=lambda model: model.pointer.published_at, reverse=True)

    def failures(self) -> list[SwapFailure]:
        """All present failures."""
        with self._lock:
            return list(self._failures.values())

    def resolve(
        self, name: str | None, prefer: Literal["pretrain", "finetune"] | None = None
    ) -> LoadedModel:
        """Return the model to answer with: `name`, or the newest one, of stage `prefer` if any is.

        Raises ModelNotFoundError or ModelNotReadyError.
        """
        if name is not None:
            return self._named(name)
        models = self.models()
        if not models:
            raise self._not_ready("No model is published yet.")
        return next((model for model in models if model.stage == prefer), models[0])

    def _named(self, name: str) -> LoadedModel:
        model = self.served(name)
        if model is not None:
            return model
        with self._lock:
            announced = set(self._announced)
        if not announced:
            raise self._not_ready(f"No model is published yet, so there is no {name!r}.")
        if name in announced:
            raise self._not_ready(self._why_not(name))
        base, _, version = name.rpartition(":")
        hint = None
        if base in announced and version.isdecimal():
            hint = f"A version cannot be chosen by name; ask for {base!r} and pin the version."
        raise ModelNotFoundError(
            f"The model {name!r} does not exist. Published: {', '.join(sorted(announced))}.",
            pointer="/model",
            hint=hint,
        )

    def _why_not(self, name: str) -> str:
        failure = self.failure(name)
        if failure is None:
            return f"The model {name!r} is being loaded."
        return f"The model {name!r} cannot be served: {failure.reason}"

    @staticmethod
    def _not_ready(message: str) -> ModelNotReadyError:
        return ModelNotReadyError(message, retry_after=RETRY_AFTER_SECONDS, pointer="/model")
