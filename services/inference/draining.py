"""Versions that were replaced and still answer the requests that have begun with them."""

from __future__ import annotations

import time
import weakref
from typing import Protocol

from services.inference.loaded_model import LoadedModel


class ModelUsers(Protocol):
    """What is needed of the engine."""

    def uses(self, model: LoadedModel) -> bool:
        """Whether any request is bound to `model`."""

    def replace(self, old: LoadedModel, new: LoadedModel) -> None:
        """Bind the requests that wait for `old` to `new`."""

    def retire(self, model: LoadedModel) -> None:
        """Fail the requests bound to `model`."""


class Draining:
    """At most one replaced version a model: the next swap waits until it is free of requests.

    So requests compute with two sets of weights of a model at most, and one is loaded only where
    no other drains. A version that drains for longer than `seconds` has its last requests failed.
    """

    def __init__(self, users: ModelUsers, *, seconds: float) -> None:
        self._users = users
        self._seconds = seconds
        self._versions: dict[str, tuple[weakref.ref[LoadedModel], float]] = {}

    def begin(self, model: LoadedModel, successor: LoadedModel) -> None:
        """`model` has been replaced just now; what waits for it goes to its successor."""
        self._users.replace(model, successor)
        self._versions[model.name] = (weakref.ref(model), time.monotonic() + self._seconds)

    def blocks(self, name: str) -> bool:
        """Whether a replaced version of `name` still has requests; ends those that are overdue."""
        reference, deadline = self._versions.get(name, (lambda: None, 0.0))
        model = reference()
        if model is not None and self._users.uses(model):
            if time.monotonic() < deadline:
                return True
            self._users.retire(model)
        if model is not None:
            model.release()
        self._versions.pop(name, None)
        return False
