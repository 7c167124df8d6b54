"""Clients that break the rules of the connection: the engine and the neighbours do not notice."""

from __future__ import annotations

import json
import resource
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from shared.base import http_security
from tests.integration.inference.conftest import Site, serve
from tests.support.models import small_tokenizer
from tests.support.serving import SMALL_MODELS, greedy_without_cache, random_model
from tests.support.waiting import wait_until

LONG_MODEL = random_model(SMALL_MODELS["arcee"].model_copy(update={"context_length": 2000}))
TOKENIZER = small_tokenizer()
CONNECTIONS = 10_000
EXPECTED = TOKENIZER.decode(greedy_without_cache(LONG_MODEL, [5, 6], 30))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serve(tmp_path_factory.mktemp("hostile"), inference_slots=2) as site:
        site.publish("demo", LONG_MODEL)
        yield site


def connect(site: Site) -> socket.socket:
    address = urlsplit(site.url)
    return socket.create_connection((address.hostname, address.port), timeout=60)  # type: ignore[arg-type]


def request(body: dict[str, object], *, length: int | None = None) -> bytes:
    content = json.dumps(body).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content) if length is None else length}\r\n\r\n"
    )
    return head.encode() + content


def neighbour_is_served(site: Site) -> None:
    answer = site.complete([5, 6], max_tokens=30, ignore_eos=True)
    assert answer["choices"][0]["text"] == EXPECTED


def test_a_stream_that_is_not_read_in_time_is_cut_off_and_frees_its_slot(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = property(lambda _: 0.3)
    monkeypatch.setattr(type(site.service), "longest_stream_seconds", seconds)
    body = {"prompt": [5], "max_tokens": 1900, "ignore_eos": True, "stream": True, "logprobs": 20}
    with connect(site) as lazy:
        lazy.sendall(request(body))
        wait_until(lambda: site.service.engine.load[0] == 1, "the answer has begun")
        neighbour_is_served(site)
        wait_until(lambda: site.service.engine.load == (0, 0), "the slot is free", seconds=120)
        received = b""
        while chunk := lazy.recv(1 << 20):
            received += chunk
    assert b"HTTP/1.1 200 OK" in received
    assert not received.endswith(b"0\r\n\r\n")  # a half answer must not look like a whole one


def test_a_body_that_never_ends_is_answered_in_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_security, "BODY_SECONDS", 0.5)
    with connect(site) as half:
        half.sendall(request({"prompt": "x"}, length=1000))
        neighbour_is_served(site)
        answer = half.recv(1 << 16)
    assert b"408 Request Timeout" in answer.splitlines()[0]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"


def test_a_client_that_resets_its_connection_frees_its_slot(site: Site) -> None:
    body = {"prompt": [5], "max_tokens": 1900, "ignore_eos": True, "stream": True}
    for _ in range(5):
        with connect(site) as rude:
            linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)  # close() sends RST
            rude.sendall(request(body))
            rude.recv(64)
    wait_until(lambda: site.service.engine.load == (0, 0), "all slots are free")
    neighbour_is_served(site)


def test_rubbish_instead_of_http_is_400(site: Site) -> None:
    for rubbish in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 100_000,
        b"GET\r\n\r\n",
    ):
        with connect(site) as broken:
            broken.sendall(rubbish)
            broken.shutdown(socket.SHUT_WR)
            assert broken.recv(1 << 16)[:12] in (b"HTTP/1.1 400", b"")
    neighbour_is_served(site)


def test_ten_thousand_silent_connections_keep_nobody_out(tmp_path: Path) -> None:
    """Client and server share this process's limit of open files, so there may be fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(CONNECTIONS, (hard - 1000) // 2)
    with serve(tmp_path) as site:
        site.publish("demo", LONG_MODEL)
        address = urlsplit(site.url)
        silent: list[socket.socket] = []
        try:
            for _ in range(count):
                silent.append(socket.create_connection((address.hostname, address.port), 60))  # type: ignore[arg-type]
            with ThreadPoolExecutor(4) as pool:
                for waiting in [pool.submit(neighbour_is_served, site) for _ in range(8)]:
                    waiting.result()
        finally:
            for one in silent:
                one.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        neighbour_is_served(site)
