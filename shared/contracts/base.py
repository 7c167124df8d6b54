"""The base of everything that crosses a process: frozen, and strict about unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Contract(BaseModel):
    """A frozen document that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class FieldError(ValueError):
    """Raised by a validator that looks at several fields: names the one to change.

    `path` leads from the validated document to the field, such as `("spec", "num_heads")`.
    """

    def __init__(self, message: str, *path: str) -> None:
        super().__init__(message)
        self.path = path
