"""Requests that run, and requests that wait, while their model changes under them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from services.inference.runtime import Runtime, open_runtime
from shared.base.settings import Settings
from tests.integration.inference.conftest import Site, serve
from tests.support.generation import open_resident_on_cpu
from tests.support.models import small_tokenizer
from tests.support.serving import SMALL_MODELS, greedy_without_cache, random_model
from tests.support.waiting import wait_until

STREAMS, TOKENS = 200, 40


@pytest.mark.parametrize("stream", [True, False])
def test_what_waits_when_a_version_comes_is_answered_by_it_and_what_runs_is_not(
    small_site: Site, brakes: threading.Event, stream: bool
) -> None:
    body = {"prompt": [5], "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0}
    ask = partial(small_site.http.post, "/v1/completions")
    load = lambda: small_site.service.engine.load  # noqa: E731
    brakes.clear()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(ask, json=body)
        wait_until(lambda: load() == (1, 0), "one request is running")
        waiting = pool.submit(ask, json={**body, "stream": stream})
        wait_until(lambda: load() == (1, 1), "another one waits")
        small_site.publish("demo", random_model(SMALL_MODELS["arcee"], seed=2))
        brakes.set()
        answers = [running.result(), waiting.result()]
    assert [answer.headers["x-model-version"] for answer in answers] == ["1", "2"]
    for seed, answer in enumerate(answers):
        model = random_model(SMALL_MODELS["arcee"], seed=seed * 2)
        text = small_tokenizer().decode(greedy_without_cache(model, [5], TOKENS))
        assert text_of(answer.text) == text


def text_of(body: str) -> str:
    """The text of a completion, streamed or whole."""
    lines = [line.removeprefix("data: ") for line in body.splitlines() if line]
    answers = [json.loads(line) for line in lines if line != "[DONE]"]
    return "".join(choice["text"] for answer in answers for choice in answer["choices"])


async def read_stream(http: httpx.AsyncClient, first: int) -> tuple[int, int, str]:
    """Version by the header, first prompt token, text of one stream; it must end properly."""
    body = {
        "model": "demo", "prompt": [first], "max_tokens": TOKENS, "ignore_eos": True,
        "temperature": 0, "stream": True,
    }  # fmt: skip
    async with http.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200
        lines = [line async for line in response.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    text = "".join(choice["text"] for event in events for choice in event["choices"])
    return int(response.headers["x-model-version"]), first, text


async def read_all(site: Site, publish: list[int]) -> list[tuple[int, int, str]]:
    """Start all streams and publish versions while they run."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=site.url, timeout=240, limits=limits) as http:
        streams = [
            asyncio.create_task(read_stream(http, 5 + number % 4)) for number in range(STREAMS)
        ]
        for seed in publish:
            busy = lambda: site.service.engine.load[0] >= 8  # noqa: E731
            await asyncio.to_thread(wait_until, busy, "the slots are busy")
            model = random_model(SMALL_MODELS["arcee"], seed=seed)
            await asyncio.to_thread(site.publish, "demo", model)
            late = [asyncio.create_task(read_stream(http, 5 + number)) for number in range(4)]
            streams += late
        return await asyncio.gather(*streams)


@pytest.mark.parametrize("open_with", [open_runtime, open_resident_on_cpu])
def test_each_of_two_hundred_streams_is_one_versions_greedy_answer(
    tmp_path: Path, open_with: Callable[[Settings], Runtime]
) -> None:
    models = {seed: random_model(SMALL_MODELS["arcee"], seed=seed) for seed in (1, 2)}
    expected = {
        (version, first): small_tokenizer().decode(greedy_without_cache(model, [first], TOKENS))
        for version, model in models.items()
        for first in range(5, 9)
    }
    settings = {"inference_slots": 16, "inference_queue": 400}
    with serve(tmp_path, open_with=open_with, **settings) as site:
        site.publish("demo", models[1])
        answers = asyncio.run(read_all(site, publish=[2]))
    assert len(answers) == STREAMS + 4
    counts = Counter(version for version, _, _ in answers)
    assert set(counts) == {1, 2}
    for version, first, text in answers:
        assert text == expected[version, first]
