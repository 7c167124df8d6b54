"""Answers that stop computing when the client hangs up, streamed or whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TypeVar

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

Result = TypeVar("Result")

DONE = b"data: [DONE]\n\n"


def event(json_text: str) -> bytes:
    """One server-sent event."""
    return f"data: {json_text}\n\n".encode()


class EventStream(Response):
    """Server-sent events. `on_end` runs in any case: at the end, on an error, on a disconnect.

    Whether the client is there is watched all the time, not only when something is sent: a
    request that waits for its slot must leave the queue with its client.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        *,
        headers: Mapping[str, str],
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(
            media_type="text/event-stream",
            headers={**headers, "cache-control": "no-cache", "x-accel-buffering": "no"},
        )
        del self.headers["content-length"]
        self._events = events
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the events or the client end."""
        try:
            with suppress(OSError):  # the server's word for a client that is gone
                await unless_disconnected(receive, self._send_all(send))
        finally:
            self._on_end()

    async def _send_all(self, send: Send) -> None:
        start = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        await send(start)
        async for chunk in self._events:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def collect(request: Request, work: Awaitable[Result]) -> Result | None:
    """Await `work`; return None if the client hangs up first."""
    return await unless_disconnected(request.receive, work)


async def unless_disconnected(receive: Receive, work: Awaitable[Result]) -> Result | None:
    """Await `work`, cancelling it (and returning None) when the client hangs up first."""
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        listening.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
