"""Asks an OpenAI-compatible server for many completions at once and measures what comes back.

Knows neither the platform nor the terminal, so that the same measurement fits any such server.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from ryangpt.transport import ApiError

SECONDS_TO_CONNECT = 10.0
WORDS = ("the", "question", "of", "a", "language", "and", "its", "many", "words", "was", "asked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server and the model to ask there."""

    name: str
    url: str
    """What comes before `/completions`."""
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to ask for."""

    concurrency: int
    requests: int
    prompt_words: int
    max_tokens: int


@dataclass(slots=True)
class Timing:
    """One answer as its reader saw it; seconds of the monotonic clock."""

    sent_at: float
    pieces_at: list[float] = field(default_factory=list)
    tokens: int = 0


async def measure(target: Target, load: Load) -> dict[str, float]:
    """Keep `load.concurrency` requests going until `load.requests` are answered.

    Returns tokens a second, and medians and 99th percentiles in milliseconds of the time to the
    first text, the time a token, and the gap between two pieces of text. Raises ApiError.
    """
    numbers = iter(range(load.requests))
    timings: list[Timing] = []
    limits = httpx.Limits(max_connections=None)
    timeout = httpx.Timeout(None, connect=SECONDS_TO_CONNECT)
    async with httpx.AsyncClient(
        headers=target.headers, limits=limits, timeout=timeout, trust_env=False
    ) as http:

        async def reader() -> None:
            for number in numbers:
                timings.append(await _ask(http, target, _body(target, load, number)))

        start = time.perf_counter()
        await asyncio.gather(*(reader() for _ in range(load.concurrency)))
        seconds = time.perf_counter() - start
    return _figures(timings, seconds)


def _body(target: Target, load: Load, number: int) -> dict[str, Any]:
    """A greedy request whose prompt is its own, and whose answer has all its tokens."""
    words = [WORDS[(number + place) % len(WORDS)] for place in range(load.prompt_words)]
    return {
        "model": target.model,
        "prompt": f"{number} {' '.join(words)}",
        "max_tokens": load.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _ask(http: httpx.AsyncClient, target: Target, body: dict[str, Any]) -> Timing:
    timing = Timing(time.perf_counter())
    try:
        async with http.stream("POST", f"{target.url}/completions", json=body) as response:
            if response.status_code != 200:
                content = (await response.aread()).decode(errors="replace")
                raise _refused(target, response.status_code, content)
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    _note(timing, json.loads(line.removeprefix("data: ")), target)
    except httpx.TransportError as error:
        raise _refused(target, 502, str(error) or type(error).__name__) from error
    return timing


def _note(timing: Timing, event: dict[str, Any], target: Target) -> None:
    if "error" in event:
        raise _refused(target, 502, event["error"].get("message", ""))
    if any(choice.get("text") for choice in event.get("choices", ())):
        timing.pieces_at.append(time.perf_counter())
    if event.get("usage"):
        timing.tokens = event["usage"]["completion_tokens"]


def _refused(target: Target, status: int, content: str) -> ApiError:
    message = f"{target.name} ({target.url}) answers {status}: {content[:300]}"
    return ApiError(message, status_code=status, code="load_refused")


def _figures(timings: Sequence[Timing], seconds: float) -> dict[str, float]:
    shown = [one for one in timings if one.pieces_at]
    first = [one.pieces_at[0] - one.sent_at for one in shown]
    each = [
        (one.pieces_at[-1] - one.pieces_at[0]) / (one.tokens - 1) for one in shown if one.tokens > 1
    ]
    gaps = [
        later - earlier
        for one in shown
        for earlier, later in zip(one.pieces_at, one.pieces_at[1:], strict=False)
    ]
    return {
        "tokens_per_second": sum(one.tokens for one in timings) / seconds,
        **_percentiles("first_text_ms", first),
        **_percentiles("token_ms", each),
        **_percentiles("gap_ms", gaps),
    }


def _percentiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds) or [float("nan")]
    high = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
    return {f"{name}_p50": statistics.median(ordered) * 1e3, f"{name}_p99": high * 1e3}
