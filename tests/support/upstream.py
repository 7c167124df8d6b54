"""A small service behind the proxy: `python -m tests.support.upstream PORT`.

`/v1/chunks` sends one chunk for each `POST /v1/go`; `/v1/slow` never answers. `/v1/seen` tells what
has been asked and how many requests were broken off by the caller.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Upstream:
    """Plain ASGI."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.cancelled = 0
        self.go = asyncio.Queue[bytes]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return None
        body = (await receive()).get("body", b"")
        path = scope["path"]
        if path == "/v1/seen":
            return await _send_json(send, {"seen": self.seen, "cancelled": self.cancelled})
        if path == "/v1/go":
            self.go.put_nowait(body)
            return await _send_json(send, {})
        self.seen.append(_described(scope, body))
        if path in {"/v1/chunks", "/v1/slow"}:
            return await self._until_broken_off(scope, receive, send)
        if path == "/v1/breaks":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise RuntimeError("broken off on purpose")
        return await _send_json(send, {"echo": body.decode()}, status=418)

    async def _until_broken_off(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = asyncio.create_task(self._answer(scope, send))
        leaving = asyncio.create_task(receive())
        done, _ = await asyncio.wait({answering, leaving}, return_when="FIRST_COMPLETED")
        if answering not in done:
            answering.cancel()
            self.cancelled += 1
        leaving.cancel()

    async def _answer(self, scope: Scope, send: Send) -> None:
        if scope["path"] == "/v1/slow":
            await asyncio.Event().wait()
        headers = [(b"content-type", b"text/event-stream"), (b"x-own", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while chunk := await self.go.get():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _described(scope: Scope, body: bytes) -> dict[str, Any]:
    return {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "headers": {name.decode(): value.decode("latin-1") for name, value in scope["headers"]},
        "body": body.decode(),
    }


async def _send_json(send: Send, document: Any, *, status: int = 200) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"x-private"),
               (b"x-private", b"secret")]  # fmt: skip
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(document).encode()})


if __name__ == "__main__":
    uvicorn.run(Upstream(), port=int(sys.argv[1]), lifespan="off", log_level="warning")
