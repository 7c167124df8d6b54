"""Hot swap under load, clients that hang up, full queues, probes and metrics."""

from __future__ import annotations

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.inference.network import Network, PackedBatch
from shared.contracts.manifest import MODEL_WEIGHTS
from shared.contracts.serving import MODELS_INDEX_KEY
from tests.integration.inference.conftest import Site, serve
from tests.support.models import small_tokenizer
from tests.support.serving import SMALL_MODELS, greedy_without_cache, random_model
from tests.support.waiting import wait_until

CONFIG = SMALL_MODELS["arcee"]
TOKENIZER = small_tokenizer()
LONG = {"prompt": [5], "max_tokens": 60, "ignore_eos": True, "temperature": 0}


def load(site: Site) -> tuple[int, int]:
    return site.service.engine.load


def test_every_answer_during_swaps_is_one_versions_alone(tmp_path: Path) -> None:
    models = {number: random_model(CONFIG, seed=number) for number in range(1, 5)}
    expected = {
        (version, first): TOKENIZER.decode(greedy_without_cache(model, [first], 60))
        for version, model in models.items()
        for first in range(5, 9)
    }
    with serve(tmp_path) as site, ThreadPoolExecutor(6) as pool:
        site.publish("demo", models[1])
        done = threading.Event()
        seen: set[int] = set()

        def ask(number: int) -> list[tuple[int, int, str]]:
            answers: list[tuple[int, int, str]] = []
            with httpx.Client(base_url=site.url, timeout=60) as http:
                while not done.is_set() or not answers:
                    first = 5 + (number + len(answers)) % 4
                    body = {**LONG, "prompt": [first], "model": "demo"}
                    response = http.post("/v1/completions", json=body)
                    assert response.status_code == 200, response.text
                    version = int(response.headers["x-model-version"])
                    seen.add(version)
                    answers.append((version, first, response.json()["choices"][0]["text"]))
            return answers

        readers = [pool.submit(ask, number) for number in range(6)]
        for version, model in models.items():
            if version > 1:
                wait_until(lambda: load(site)[0] >= 3, "several requests are running")
                site.publish("demo", model)
            wait_until(partial(seen.__contains__, version), f"version {version} has answered")
        done.set()
        answers = [answer for reader in readers for answer in reader.result()]
    assert {version for version, _, _ in answers} == {1, 2, 3, 4}
    for version, first, text in answers:
        assert text == expected[version, first]


def test_a_running_stream_ends_on_the_weights_it_began_with(
    tmp_path: Path, brakes: threading.Event
) -> None:
    old, new = random_model(CONFIG, seed=1), random_model(CONFIG, seed=2)
    with serve(tmp_path) as site:
        site.publish("demo", old)
        body = {**LONG, "stream": True}
        with site.http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            pieces = [next(lines)]
            brakes.clear()
            pointer = site.publisher.store_version("demo", 2, new)
            site.publisher.point_to(pointer)
            brakes.set()
            wait_until(lambda: site.version("demo") == 2, "version 2 is served")
            pieces += [line for line in lines if line]
        assert response.headers["x-model-version"] == "1"
        answer = site.complete([5], max_tokens=60, ignore_eos=True)
    events = [json.loads(piece[6:]) for piece in pieces if piece != "data: [DONE]"]
    text = "".join(event["choices"][0]["text"] for event in events)
    assert text == TOKENIZER.decode(greedy_without_cache(old, [5], 60))
    assert answer["choices"][0]["text"] == TOKENIZER.decode(greedy_without_cache(new, [5], 60))


def test_a_corrupted_version_leaves_the_old_one_serving_and_shows(tmp_path: Path) -> None:
    old = random_model(CONFIG, seed=1)
    with serve(tmp_path) as site:
        site.publish("demo", old)
        pointer = site.publisher.store_version("demo", 2, random_model(CONFIG, seed=2))
        key = pointer.manifest_key.replace("manifest.json", MODEL_WEIGHTS)
        content = site.publisher.store.get_bytes(key)
        site.publisher.store.put_bytes(key, content[:-1] + bytes([content[-1] ^ 1]))
        site.publisher.point_to(pointer)
        wait_until(lambda: bool(site.service.models.failures()), "the failure is noticed")
        answer = site.complete([5], max_tokens=60, ignore_eos=True)
        ready = site.http.get("/health/ready")
        metrics = site.http.get("/metrics").text
    assert answer["system_fingerprint"].startswith("demo:1-")
    assert answer["choices"][0]["text"] == TOKENIZER.decode(greedy_without_cache(old, [5], 60))
    assert ready.status_code == 200
    assert [one["version"] for one in ready.json()["models"]] == [1]
    (failure,) = ready.json()["failures"]
    assert (failure["name"], failure["version"]) == ("demo", 2)
    assert "another sha256 than its manifest says" in failure["reason"]
    assert 'ryangpt_model_swap_failures_total{model_name="demo",stage="download"} 1.0' in metrics
    assert 'ryangpt_model_failing{model_name="demo",version="2"} 1.0' in metrics


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_its_slot(
    small_site: Site, brakes: threading.Event, stream: bool
) -> None:
    brakes.clear()
    with pytest.raises(httpx.ReadTimeout):
        small_site.http.post("/v1/completions", json={**LONG, "stream": stream}, timeout=0.5)
    wait_until(lambda: load(small_site) == (0, 0), "the slot is free")
    brakes.set()
    wait_until(lambda: "abort" in small_site.http.get("/metrics").text, "the abort is counted")
    answer = small_site.complete([5], max_tokens=3)
    assert answer["usage"]["completion_tokens"] == 3


def test_a_client_that_hangs_up_while_waiting_leaves_the_queue(
    small_site: Site, brakes: threading.Event
) -> None:
    brakes.clear()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(small_site.complete, [5], max_tokens=60, ignore_eos=True)
        wait_until(lambda: load(small_site) == (1, 0), "one request is running")
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{small_site.url}/v1/completions", json={**LONG, "stream": True}, timeout=0.5
            )
        wait_until(lambda: load(small_site) == (1, 0), "the queue is empty")
        brakes.set()
        assert running.result()["usage"]["completion_tokens"] == 60


def test_a_full_queue_is_429_with_retry_after(small_site: Site, brakes: threading.Event) -> None:
    brakes.clear()
    with ThreadPoolExecutor(2) as pool:
        waiting = [
            pool.submit(small_site.complete, [5], max_tokens=4, ignore_eos=True) for _ in range(2)
        ]
        wait_until(lambda: load(small_site) == (1, 1), "one request runs and one waits")
        response = small_site.http.post("/v1/completions", json=LONG)
        metrics = small_site.http.get("/metrics").text
        brakes.set()
        texts = {one.result()["choices"][0]["text"] for one in waiting}
    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
    assert sample_of(metrics, 'ryangpt_admission_rejections_total{reason="queue_full"}') == 1
    assert texts == {TOKENIZER.decode(greedy_without_cache(random_model(CONFIG), [5], 4))}


def test_a_failure_of_the_engine_is_500_and_in_a_stream_that_has_begun_an_event(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, seen = Network.forward, threading.Event()

    def fail(*_: Any) -> None:
        raise RuntimeError("no memory")

    def fail_once_seen(self: Network, batch: PackedBatch, *more: Any) -> Any:
        if int(batch.positions[0]) == 0:
            return forward(self, batch, *more)
        seen.wait(60)
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(Network, "forward", fail)
        whole = site.http.post("/v1/completions", json=LONG)
        early = site.http.post("/v1/completions", json={**LONG, "stream": True})
        patch.setattr(Network, "forward", fail_once_seen)
        body = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
        with site.http.stream("POST", "/v1/chat/completions", json=body) as late:
            pieces = late.iter_raw()
            text = next(pieces)
            seen.set()
            text += b"".join(pieces)
    expected = {
        "message": "Computing the answer failed.",
        "type": "server_error",
        "param": None,
        "code": "generation_failed",
    }
    for response in (whole, early):
        assert (response.status_code, response.json()) == (500, {"error": expected})
        assert response.headers["x-should-retry"] == "false"
    assert late.status_code == 200
    opening, *_, error, done, end = text.decode().split("\n\n")
    assert json.loads(opening.removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"
    assert json.loads(error.removeprefix("data: ")) == {"error": expected}
    assert (done, end) == ("data: [DONE]", "")
    assert site.complete([5], max_tokens=3)["usage"]["completion_tokens"] == 3


def test_it_is_ready_before_any_model_is_published(empty_site: Site) -> None:
    response = empty_site.http.get("/health/ready")
    assert response.status_code == 200
    assert response.json() == {
        "status": "ok",
        "device": "cpu",
        "dtype": "float32",
        "weights": "float32",
        "attention": "bags",
        "models": [],
        "failures": [],
    }
    assert empty_site.http.get("/health/live").json() == {"status": "ok"}


def test_it_is_unwell_when_the_engine_does_not_turn(empty_site: Site) -> None:
    empty_site.service.engine.stop()
    for path in ("/health/live", "/health/ready"):
        response = empty_site.http.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_stalled")


def sample_of(metrics: str, name: str) -> float:
    match = re.search(rf"^{re.escape(name)} (\S+)$", metrics, re.MULTILINE)
    assert match, f"{name} is not among the metrics"
    return float(match.group(1))


def test_the_metrics_count_what_happened(tmp_path: Path) -> None:
    with serve(tmp_path) as site:
        site.publish("demo", random_model(CONFIG))
        site.complete([5, 6, 7], max_tokens=4, ignore_eos=True)
        site.complete([5, 6], max_tokens=1, ignore_eos=True)
        site.publisher.store.delete([MODELS_INDEX_KEY])
        metrics = site.http.get("/metrics").text
    label = '{model_name="demo"}'
    assert sample_of(metrics, "ryangpt_prompt_tokens_total") == 5
    assert sample_of(metrics, "ryangpt_generation_tokens_total") == 5
    assert sample_of(metrics, f"ryangpt_time_to_first_token_seconds_count{label}") == 2
    assert sample_of(metrics, f"ryangpt_inter_token_latency_seconds_count{label}") == 3
    assert sample_of(metrics, f"ryangpt_e2e_request_latency_seconds_count{label}") == 2
    for phase, count in (("prefill", 2), ("decode", 2), ("inference", 2)):
        name = f"ryangpt_request_{phase}_time_seconds_count{label}"
        assert sample_of(metrics, name) == count
    per_token = f"ryangpt_request_time_per_output_token_seconds_count{label}"
    assert sample_of(metrics, per_token) == 1
    assert sample_of(metrics, f"ryangpt_request_prompt_tokens_sum{label}") == 5
    assert sample_of(metrics, f"ryangpt_request_generation_tokens_sum{label}") == 5
    assert sample_of(metrics, "ryangpt_kv_cache_usage_perc") == 0
    finished = 'ryangpt_request_finished_total{finished_reason="length",model_name="demo"}'
    assert sample_of(metrics, finished) == 2
    assert sample_of(metrics, "ryangpt_num_requests_running") == 0
    runtime = 'attention="bags",device="cpu",dtype="float32",weights="float32"'
    assert sample_of(metrics, f"ryangpt_runtime_info{{{runtime}}}") == 1
    assert re.search(r'ryangpt_model_info\{.*stage="pretrain",version="1"\} 1\.0', metrics)
    assert 0 <= sample_of(metrics, "ryangpt_model_index_age_seconds") < time.monotonic()
