"""An upload whose connection breaks half-way, over a real socket."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from services.api.uploads import INCOMING_FOLDER
from tests.support.api_server import API_TOKEN, HEADERS, ApiServer, running_api
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

CONTENT = b"once upon a time\n" * 100_000
HALF = len(CONTENT) // 2


def with_a_length(start: str, half: bytes) -> bytes:
    return f"{start}Content-Length: {len(CONTENT)}\r\n\r\n".encode() + half


def in_chunks(start: str, half: bytes) -> bytes:
    return f"{start}Transfer-Encoding: chunked\r\n\r\n{len(half):x}\r\n".encode() + half + b"\r\n"


@pytest.mark.parametrize("request_of", [with_a_length, in_chunks])
def test_half_a_file_is_none_and_the_whole_can_be_sent_again(
    tmp_path: Path, request_of: Callable[[str, bytes], bytes]
) -> None:
    with running_api(tmp_path) as server, client_of(server) as client:
        upload = client.post("/v1/uploads", json={"filename": "story.txt"}).json()["id"]
        start = (
            f"PUT /v1/uploads/{upload}/content HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            f"Authorization: Bearer {API_TOKEN}\r\n"
        )
        incoming = server.data_dir / INCOMING_FOLDER
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(request_of(start, CONTENT[:HALF]))
            wait_until(lambda: any(incoming.glob("*")), "the first half arrives", seconds=60)
        wait_until(lambda: not any(incoming.glob("*")), "the half is deleted", seconds=60)
        assert client.get(f"/v1/uploads/{upload}").json()["state"] == "writing"
        sent = client.put(f"/v1/uploads/{upload}/content", content=CONTENT).json()
        assert (sent["state"], sent["bytes"]) == ("ready", len(CONTENT))


def client_of(server: ApiServer) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers=HEADERS, timeout=60)
