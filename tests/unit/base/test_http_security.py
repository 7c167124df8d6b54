"""The door that both HTTP services share, in front of an application that records its calls."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import httpx
import pytest

from shared.base.errors import NotFoundError, PlatformError
from shared.base.http_security import (
    SESSION_COOKIE,
    Message,
    Receive,
    Scope,
    SecurityMiddleware,
    Send,
    session_value,
)
from shared.base.logs import bound_context

TOKEN = "correct-horse-battery"
BEARER = {"authorization": f"Bearer {TOKEN}"}
LIMIT = 1000


def render(error: PlatformError, request_id: str) -> tuple[int, dict[str, str], bytes]:
    body = json.dumps({"code": error.code, "request_id": request_id}).encode()
    return error.status_code, {"content-type": "application/json"}, body


class Echo:
    """Answers with the body it read; `/raise` and `/missing` raise, `/late` after the start."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.context: dict[str, str] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls.append(scope["path"])
        self.context = bound_context.get()
        if scope["path"] == "/raise":
            raise RuntimeError("a bug")
        if scope["path"] == "/missing":
            raise NotFoundError("No such thing.")
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/late":
            raise RuntimeError("a late bug")
        await send({"type": "http.response.body", "body": body})


def make_door(echo: Echo, *, token: str = TOKEN, accept_cookie: bool = False) -> SecurityMiddleware:
    return SecurityMiddleware(
        echo,
        token=token,
        allowed_hosts=["localhost", "[::1]"],
        public_paths=frozenset({"/health/live"}),
        max_body_bytes=LIMIT,
        unlimited=lambda method, path: (method, path) == ("PUT", "/big"),
        render_error=render,
        accept_cookie=accept_cookie,
    )


def call(
    method: str,
    path: str,
    *,
    echo: Echo | None = None,
    token: str = TOKEN,
    accept_cookie: bool = False,
    headers: dict[str, str] | list[tuple[bytes, bytes]] | None = None,
    content: bytes | AsyncIterator[bytes] | None = None,
) -> httpx.Response:
    door = make_door(echo or Echo(), token=token, accept_cookie=accept_cookie)
    transport = httpx.ASGITransport(app=door)  # type: ignore[arg-type]  # same shape, looser types

    async def run() -> httpx.Response:
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost:8000"
        ) as client:
            return await client.request(method, path, headers=headers, content=content)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": TOKEN},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"cookie": f"{SESSION_COOKIE}={session_value(TOKEN)}"},
        [(b"authorization", b"Bearer t\xf6k\xff")],
        [(b"authorization", b"Bearer wrong"), (b"authorization", f"Bearer {TOKEN}".encode())],
    ],
)
def test_a_request_without_the_token_reaches_nothing(
    headers: dict[str, str] | list[tuple[bytes, bytes]],
) -> None:
    echo = Echo()
    response = call("GET", "/x", echo=echo, headers=headers)
    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert echo.calls == []


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_token_opens_the_door(scheme: str) -> None:
    assert call("GET", "/x", headers={"authorization": f"{scheme} {TOKEN}"}).status_code == 200


def test_a_token_beyond_ascii_is_compared_as_utf_8() -> None:
    right = [(b"authorization", "Bearer gehört-mir-ß".encode())]
    assert call("GET", "/x", token="gehört-mir-ß", headers=right).status_code == 200
    wrong = [(b"authorization", "Bearer gehört-mir-ß".encode("latin-1"))]
    assert call("GET", "/x", token="gehört-mir-ß", headers=wrong).status_code == 401


def test_public_paths_need_no_token_but_an_allowed_host() -> None:
    assert call("GET", "/health/live").status_code == 200
    assert call("GET", "/health/live/").status_code == 401
    assert call("GET", "/health/live", headers={"host": "evil.test"}).status_code == 400


def test_the_session_cookie_counts_only_where_it_is_accepted() -> None:
    good = {"cookie": f"other=1; {SESSION_COOKIE}={session_value(TOKEN)}"}
    assert call("GET", "/x", accept_cookie=True, headers=good).status_code == 200
    assert call("GET", "/x", accept_cookie=False, headers=good).status_code == 401
    raw_token = {"cookie": f"{SESSION_COOKIE}={TOKEN}"}
    assert call("GET", "/x", accept_cookie=True, headers=raw_token).status_code == 401
    assert TOKEN not in session_value(TOKEN)


def test_without_a_token_there_is_no_session_to_forge() -> None:
    assert call("GET", "/x", token="", accept_cookie=True).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.test", "localhost.evil.test", "evil.test:8000", "localhost@evil.test", ""]
)
def test_a_foreign_host_is_refused(host: str) -> None:
    response = call("GET", "/x", headers={**BEARER, "host": host})
    assert (response.status_code, response.json()["code"]) == (400, "host_not_allowed")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "[::1]", "[::1]:8000"])
def test_the_port_of_the_host_does_not_matter(host: str) -> None:
    assert call("GET", "/x", headers={**BEARER, "host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.test", "null", "http://localhost:3000", "http://localhost", "http://[::1:8000"],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_another_origin_may_not_change_anything(method: str, origin: str) -> None:
    echo = Echo()
    response = call(method, "/x", echo=echo, headers={**BEARER, "origin": origin})
    assert (response.status_code, response.json()["code"]) == (403, "origin_not_allowed")
    assert echo.calls == []


def test_the_own_origin_may_and_reading_is_left_to_the_browser() -> None:
    own = {**BEARER, "origin": "http://localhost:8000"}
    assert call("POST", "/x", headers=own).status_code == 200
    foreign = {**BEARER, "origin": "http://evil.test"}
    assert call("GET", "/x", headers=foreign).status_code == 200


def test_the_answer_carries_the_request_id_and_so_do_the_logs() -> None:
    echo = Echo()
    response = call("GET", "/x", echo=echo, headers={**BEARER, "x-request-id": "abc-1.2_3"})
    assert response.headers["x-request-id"] == "abc-1.2_3"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert echo.context == {"request_id": "abc-1.2_3"}
    assert bound_context.get() is None


@pytest.mark.parametrize("sent", ["a b", "x" * 129, "a\u00ff", ""])
def test_a_strange_request_id_is_replaced(sent: str) -> None:
    headers = [(b"x-request-id", sent.encode("latin-1"))]
    response = call("GET", "/x", headers=headers)
    assert response.status_code == 401
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert len(response.headers["x-request-id"]) == 32


async def _chunks(num_chunks: int) -> AsyncIterator[bytes]:
    for _ in range(num_chunks):
        yield b"x" * 100


def test_a_body_up_to_the_limit_arrives_whole() -> None:
    response = call("POST", "/x", headers=BEARER, content=_chunks(10))
    assert response.content == b"x" * LIMIT


def test_a_body_beyond_the_limit_is_refused_announced_or_not() -> None:
    echo = Echo()
    announced = call("POST", "/x", echo=echo, headers=BEARER, content=b"x" * (LIMIT + 1))
    streamed = call("POST", "/x", echo=echo, headers=BEARER, content=_chunks(11))
    lying = call("POST", "/x", echo=echo, headers={**BEARER, "content-length": "9" * 5000})
    assert [r.status_code for r in (announced, streamed, lying)] == [413, 413, 413]
    assert echo.calls == []


def test_an_unlimited_request_streams_past_the_limit() -> None:
    response = call("PUT", "/big", headers=BEARER, content=_chunks(50))
    assert len(response.content) == 5000


def test_an_unauthorized_body_is_never_read() -> None:
    read: list[int] = []

    async def counted() -> AsyncIterator[bytes]:
        read.append(1)
        yield b"x"

    assert call("POST", "/x", content=counted()).status_code == 401
    assert read == []


def test_a_bug_becomes_a_500_that_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        response = call("GET", "/raise", headers=BEARER)
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "a bug" not in response.text
    assert "RuntimeError: a bug" in caplog.text


def test_a_platform_error_that_escapes_keeps_its_meaning() -> None:
    response = call("GET", "/missing", headers=BEARER)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_an_error_after_the_start_cuts_the_connection() -> None:
    with pytest.raises(RuntimeError, match="a late bug"):
        call("GET", "/late", headers=BEARER)


def test_a_websocket_is_closed_before_it_opens() -> None:
    echo = Echo()
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    scope: Scope = {"type": "websocket", "path": "/", "headers": []}
    asyncio.run(make_door(echo)(scope, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert echo.calls == []
