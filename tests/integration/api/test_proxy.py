"""The reverse proxy between real processes: client, API, upstream."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from shared.contracts.serving import MAX_INFERENCE_BODY_BYTES
from tests.support.api_server import API_TOKEN, HEADERS, running_api
from tests.support.s3_servers import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """An API in front of an upstream."""

    api: httpx.Client
    upstream: httpx.Client
    upstream_process: subprocess.Popen[bytes]

    def seen(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.upstream.get("/v1/seen").json()
        return answer

    def last_seen(self) -> dict[str, Any]:
        last: dict[str, Any] = self.seen()["seen"][-1]
        return last

    def go(self, chunk: bytes) -> None:
        self.upstream.post("/v1/go", content=chunk)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.support.upstream", str(port)])
    upstream_url = f"http://127.0.0.1:{port}"
    folder = tmp_path_factory.mktemp("proxy")
    try:
        with (
            httpx.Client(base_url=upstream_url, trust_env=False) as upstream,
            running_api(folder, RYANGPT_INFERENCE_URL=upstream_url) as server,
            httpx.Client(base_url=server.url, headers=HEADERS, trust_env=False) as api,
        ):
            wait_until(lambda: _answers(upstream), "the upstream answers", seconds=60.0)
            yield Bench(api=api, upstream=upstream, upstream_process=process)
    finally:
        process.kill()
        process.wait()


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/v1/seen").status_code == 200
    except httpx.TransportError:
        return False


def test_request_and_answer_pass_unchanged(bench: Bench) -> None:
    response = bench.api.post(
        "/inference/v1/completions?a=1&b=%20", content=b'{"prompt": "x"}',
        headers={"X-Own": "kept", "X-Request-Id": "rid-1"},
    )  # fmt: skip
    assert (response.status_code, response.json()) == (418, {"echo": '{"prompt": "x"}'})
    seen = bench.last_seen()
    assert (seen["method"], seen["path"], seen["query"]) == ("POST", "/v1/completions", "a=1&b=%20")
    assert seen["body"] == '{"prompt": "x"}'
    assert seen["headers"]["x-own"] == "kept"
    assert seen["headers"]["x-request-id"] == "rid-1"
    assert response.headers["x-request-id"] == "rid-1"


def test_the_client_s_identity_is_replaced_by_the_platform_s(bench: Bench) -> None:
    headers = {
        "Origin": str(bench.api.base_url).rstrip("/"), "Cookie": "ryangpt_session=x", "TE": "gzip",
        "Connection": "keep-alive, x-hop", "X-Hop": "1", "Keep-Alive": "5",
    }  # fmt: skip
    response = bench.api.post("/inference/v1/x", headers=headers)
    assert response.status_code == 418
    seen = bench.last_seen()["headers"]
    assert seen["authorization"] == f"Bearer {API_TOKEN}"
    assert {"origin", "cookie", "te", "x-hop", "keep-alive"}.isdisjoint(seen)
    assert seen["host"] == bench.upstream.base_url.netloc.decode()
    assert "x-private" not in response.headers


def test_chunks_arrive_while_the_upstream_is_still_answering(bench: Bench) -> None:
    with bench.api.stream("POST", "/inference/v1/chunks") as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["x-own"] == "1"
        chunks = response.iter_raw()
        for chunk in (b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"):
            bench.go(chunk)
            assert next(chunks) == chunk
        bench.go(b"")
        assert list(chunks) == []


def test_a_client_that_leaves_a_stream_stops_the_upstream(bench: Bench) -> None:
    before = bench.seen()["cancelled"]
    with bench.api.stream("POST", "/inference/v1/chunks") as response:
        bench.go(b"data: 1\n\n")
        assert next(response.iter_raw()) == b"data: 1\n\n"
    wait_until(lambda: bench.seen()["cancelled"] == before + 1, "the upstream was broken off")


def test_a_client_that_leaves_before_the_answer_stops_the_upstream(bench: Bench) -> None:
    before = bench.seen()
    asked = len(before["seen"])
    with pytest.raises(httpx.ReadTimeout):
        bench.api.post("/inference/v1/slow", timeout=httpx.Timeout(5.0, read=0.5))
    wait_until(
        lambda: bench.seen()["cancelled"] == before["cancelled"] + 1, "the upstream was broken off"
    )
    assert len(bench.seen()["seen"]) == asked + 1


def test_an_upstream_that_breaks_off_breaks_the_answer_off(bench: Bench) -> None:
    """A half answer must not look like a whole one."""
    with (
        pytest.raises(httpx.RemoteProtocolError),
        bench.api.stream("GET", "/inference/v1/breaks") as response,
    ):
        response.read()


def test_the_routes_about_tokens_pass_too(bench: Bench) -> None:
    assert bench.api.post("/inference/tokenize", content=b"{}").status_code == 418
    assert (bench.last_seen()["method"], bench.last_seen()["path"]) == ("POST", "/tokenize")


@pytest.mark.parametrize(
    "path",
    [
        "v1/../health/live",
        "v1/..%2f..%2fv1/seen",
        "v1/a%0d%0ab",
        "v1/a%3fb",
        "v1/%00",
        "metrics",
        "health/live",
        "v1",
        "tokenize/x",
    ],
)
def test_a_path_that_leaves_the_prefix_is_not_forwarded(bench: Bench, path: str) -> None:
    asked = len(bench.seen()["seen"])
    request = httpx.Request("GET", f"{bench.api.base_url}/", headers=HEADERS)
    request.url = request.url.copy_with(raw_path=f"/inference/{path}".encode())
    response = bench.api.send(request)
    assert response.status_code == 404
    assert len(bench.seen()["seen"]) == asked


def test_large_bodies_stop_at_the_door(bench: Bench) -> None:
    """The limit below /inference/ is the inference service's own, not the platform's 1 MiB."""
    largest = b"x" * MAX_INFERENCE_BODY_BYTES
    assert bench.api.post("/inference/v1/completions", content=largest).status_code == 418
    asked = len(bench.seen()["seen"])
    response = bench.api.post("/inference/v1/completions", content=largest + b"x")
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")
    assert len(bench.seen()["seen"]) == asked


def test_without_an_inference_service_the_answer_is_a_503_in_openai_s_shape(
    bench: Bench,
) -> None:
    bench.upstream_process.kill()
    bench.upstream_process.wait()
    response = bench.api.post("/inference/v1/chat/completions", json={})
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "inference_unavailable")
    assert bench.api.get("/health/ready").status_code == 200
