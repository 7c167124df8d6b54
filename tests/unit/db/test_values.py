"""Text and numbers from outside."""

from __future__ import annotations

import math

import pytest

from shared.db.values import clean_text, finite_values


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("plain \U0001f600", None, "plain \U0001f600"),
        ("nul\0", None, "nul\ufffd"),
        ("surrogate \udcff", None, "surrogate ?"),
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abcde\u2026"),
    ],
)
def test_text_is_storable(text: str, limit: int | None, expected: str) -> None:
    assert clean_text(text, limit=limit) == expected


def test_only_finite_values_are_kept() -> None:
    values = {"a": 1.0, "b": math.nan, "c": math.inf, "d": -math.inf, "e": 0.0}
    assert finite_values(values) == {"a": 1.0, "e": 0.0}
