"""What a client gets that waits: signs of life, and in the end an error that says why."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.integration.inference.conftest import Site, serve
from tests.support.models import small_tokenizer
from tests.support.serving import SMALL_MODELS, greedy_without_cache, random_model
from tests.support.waiting import wait_until

MODEL = random_model(SMALL_MODELS["arcee"])
LONG = {"prompt": [5], "max_tokens": 60, "ignore_eos": True, "temperature": 0}
COMMENT = b": still here\n\n"


def load(site: Site) -> tuple[int, int]:
    return site.service.engine.load


def ask(site: Site, *, stream: bool) -> httpx.Response:
    return httpx.post(f"{site.url}/v1/completions", json={**LONG, "stream": stream}, timeout=60)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of an answer, or of a stream that has begun."""
    if response.headers["content-type"] == "application/json":
        error: dict[str, Any] = response.json()["error"]
        return error
    *_, last, done, end = response.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    late: dict[str, Any] = json.loads(last.removeprefix("data: "))["error"]
    return late


@pytest.fixture
def quiet_site(tmp_path: Path, brakes: threading.Event) -> Iterator[Site]:
    """One slot; streams say that they live almost all the time."""
    with serve(tmp_path, inference_slots=1, inference_keepalive_seconds=0.05) as site:
        site.publish("demo", MODEL)
        yield site


def test_a_stream_that_waits_for_a_slot_and_for_a_token_says_that_it_lives(
    quiet_site: Site, brakes: threading.Event
) -> None:
    seen = threading.Event()

    def read() -> tuple[bytes, bytes, str]:
        body = {**LONG, "stream": True}
        with quiet_site.http.stream("POST", "/v1/completions", json=body) as response:
            pieces = response.iter_raw()
            waiting = next(pieces)
            seen.set()
            return waiting, b"".join(pieces), response.headers["x-model-version"]

    brakes.clear()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(ask, quiet_site, stream=False)
        wait_until(lambda: load(quiet_site) == (1, 0), "one request is running")
        waiting = pool.submit(read)
        assert seen.wait(30)
        assert load(quiet_site) == (1, 1)
        quiet_site.publish("demo", random_model(SMALL_MODELS["arcee"], seed=2))
        brakes.set()
        first, rest, version = waiting.result()
        assert running.result().status_code == 200
    assert first.startswith(COMMENT)
    assert version == "1", "what has been told to the client is kept"
    events = [line for line in rest.split(b"\n\n") if line.startswith(b"data: {")]
    text = "".join(json.loads(line[6:])["choices"][0]["text"] for line in events)
    assert text == small_tokenizer().decode(greedy_without_cache(MODEL, [5], 60))


def test_openais_client_passes_over_the_signs_of_life(
    quiet_site: Site, brakes: threading.Event
) -> None:
    with openai.OpenAI(base_url=f"{quiet_site.url}/v1", api_key="unused") as client:
        brakes.clear()
        body = {"extra_body": {"ignore_eos": True}, "temperature": 0, "max_tokens": 60}
        with client.completions.with_streaming_response.create(
            model="demo", prompt=[5], stream=True, **body
        ) as raw:
            assert next(raw.iter_bytes()).startswith(COMMENT)
            brakes.set()
        brakes.clear()
        timer = threading.Timer(0.4, brakes.set)
        timer.start()
        stream = client.completions.create(model="demo", prompt=[5], stream=True, **body)
        text = "".join(chunk.choices[0].text for chunk in stream)
        timer.join()
    assert text == small_tokenizer().decode(greedy_without_cache(MODEL, [5], 60))


@pytest.mark.parametrize(
    ("stream", "keepalive", "status"), [(False, 60, 429), (True, 60, 429), (True, 0.05, 200)]
)
def test_who_gets_no_slot_in_time_is_told_so(
    tmp_path: Path, hurry: threading.Event, stream: bool, keepalive: float, status: int
) -> None:
    with serve(
        tmp_path,
        inference_slots=1,
        inference_queue_seconds=0.3,
        inference_keepalive_seconds=keepalive,
    ) as site:
        site.publish("demo", MODEL)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(ask, site, stream=False)
            wait_until(lambda: load(site) == (1, 0), "one request is running")
            refused = ask(site, stream=stream)
            hurry.set()
            assert running.result().status_code == 200
        metrics = site.http.get("/metrics").text
    assert refused.status_code == status
    assert error_of(refused) == {
        "message": "No slot became free in time.",
        "type": "rate_limit_error",
        "param": None,
        "code": "queue_timeout",
    }
    if status == 429:
        assert refused.headers["retry-after"] == "5"
    else:
        assert refused.content.startswith(COMMENT)
    assert 'finished_reason="error",model_name="demo"} 1.0' in metrics


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize(("stream", "status"), [(False, 504), (True, 200)])
def test_an_answer_that_takes_too_long_ends_with_an_error(
    tmp_path: Path, stream: bool, status: int
) -> None:
    with serve(tmp_path, inference_answer_seconds=0.6) as site:
        site.publish("demo", MODEL)
        response = ask(site, stream=stream)
        wait_until(lambda: load(site) == (0, 0), "the slot is free")
    assert response.status_code == status
    assert error_of(response) == {
        "message": "The answer took longer than it may.",
        "type": "server_error",
        "param": None,
        "code": "timeout",
    }
    if not stream:
        assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(("stream", "status"), [(False, 503), (True, 200)])
def test_an_answer_whose_version_is_retired_ends_with_an_error(
    tmp_path: Path, hurry: threading.Event, stream: bool, status: int
) -> None:
    with serve(tmp_path) as site, ThreadPoolExecutor(1) as pool:
        site.publish("demo", MODEL)
        old = site.service.models.resolve("demo")
        generated = site.service.metrics
        answer = pool.submit(ask, site, stream=stream)
        wait_until(lambda: b"generation_tokens_total 0.0" not in generated.render(), "it began")
        site.publish("demo", random_model(SMALL_MODELS["arcee"], seed=2))
        site.service.engine.retire(old)
        response = answer.result()
        hurry.set()
        assert site.complete([5], max_tokens=2)["system_fingerprint"].startswith("demo:2-")
    assert response.status_code == status
    assert error_of(response) == {
        "message": "Version 1 of demo was replaced; ask again.",
        "type": "server_error",
        "param": None,
        "code": "model_retired",
    }
    if not stream:
        assert response.headers["retry-after"] == "5"
