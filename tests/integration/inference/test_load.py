"""`ryangpt bench serve` measures a real server; its figures are what was sent and received."""

from __future__ import annotations

import asyncio
import math

import pytest

from ryangpt.load_generator import Load, Target, Timing, _figures, measure
from ryangpt.transport import ApiError
from tests.integration.inference.conftest import Site

LOAD = Load(concurrency=5, requests=12, prompt_words=3, max_tokens=20)


def generated(site: Site) -> float:
    lines = site.http.get("/metrics").text.splitlines()
    return float(
        next(x for x in lines if x.startswith("ryangpt_generation_tokens_total")).split()[1]
    )


def test_every_token_that_was_asked_for_is_counted(site: Site) -> None:
    before = generated(site)
    figures = asyncio.run(measure(Target(name="x", url=f"{site.url}/v1", model="base"), LOAD))
    assert generated(site) - before == 12 * 20
    assert all(math.isfinite(value) and value > 0 for value in figures.values())
    assert figures["first_text_ms_p50"] <= figures["first_text_ms_p99"]


def test_a_refusal_ends_it_with_the_servers_words(site: Site) -> None:
    with pytest.raises(ApiError, match=r"answers 404: .*nobody.* does not exist"):
        asyncio.run(measure(Target(name="x", url=f"{site.url}/v1", model="nobody"), LOAD))


def test_the_figures() -> None:
    timings = [
        Timing(sent_at=1.0, pieces_at=[1.1, 1.2, 1.5], tokens=5),
        Timing(sent_at=1.0, pieces_at=[1.3], tokens=1),
    ]
    figures = _figures(timings, seconds=2.0)
    assert figures == pytest.approx(
        {
            "tokens_per_second": 3.0,
            "first_text_ms_p50": 200.0,
            "first_text_ms_p99": 300.0,
            "token_ms_p50": 100.0,
            "token_ms_p99": 100.0,
            "gap_ms_p50": 200.0,
            "gap_ms_p99": 300.0,
        }
    )
