"""Two hundred streams at once while their model changes under them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import httpx

from tests.integration.inference.conftest import Site, serve
from tests.support.models import small_tokenizer
from tests.support.serving import SMALL_MODELS, greedy_without_cache, random_model
from tests.support.waiting import wait_until

STREAMS, TOKENS = 200, 40


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


def test_each_of_two_hundred_streams_is_one_versions_greedy_answer(tmp_path: Path) -> None:
    models = {seed: random_model(SMALL_MODELS["arcee"], seed=seed) for seed in (1, 2)}
    expected = {
        (version, first): small_tokenizer().decode(greedy_without_cache(model, [first], TOKENS))
        for version, model in models.items()
        for first in range(5, 9)
    }
    with serve(tmp_path, inference_slots=16, inference_queue=400) as site:
        site.publish("demo", models[1])
        answers = asyncio.run(read_all(site, publish=[2]))
    assert len(answers) == STREAMS + 4
    counts = Counter(version for version, _, _ in answers)
    assert set(counts) == {1, 2}
    for version, first, text in answers:
        assert text == expected[version, first]
