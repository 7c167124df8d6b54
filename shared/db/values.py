"""Text and numbers from outside, made storable on both databases."""

from __future__ import annotations

import math
from collections.abc import Mapping


def clean_text(text: str, *, limit: int | None = None) -> str:
    """Replace what PostgreSQL's text cannot hold (NUL, lone surrogates); cut at `limit`."""
    clean = (
        text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")
    )
    if limit is None or len(clean) <= limit:
        return clean
    return clean[: limit - 1] + "\u2026"


def finite_values(values: Mapping[str, float]) -> dict[str, float]:
    """Leave out NaN and infinities, which JSON cannot hold."""
    return {name: value for name, value in values.items() if math.isfinite(value)}
