"""Answers that stop computing when the client hangs up, streamed or whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import TypeVar

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

Result = TypeVar("Result")


class EventStream(Response):
    """Server-sent events. `on_end` runs in any case: at the end, on an error, on a disconnect.

    Nothing is sent before the first event is there: until then an error can still be an answer of
    its own, and it is not known yet which version of the model will speak. Whether the client is
    there is watched all the time, not only when something is sent: a request that waits for its
    slot must leave the queue with its client.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        headers: Callable[[], Mapping[str, str]],
        on_end: Callable[[], None],
        seconds: float,
    ) -> None:
        """`headers` is asked at the first event; a client that has not read all of it after
        `seconds` is cut off."""
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self._events = events
        self._late_headers = headers
        self._on_end = on_end
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the events or the client end."""
        try:
            with suppress(OSError):  # the server's word for a client that is gone
                await unless_disconnected(receive, self._send_all(send), seconds=self._seconds)
        finally:
            self._on_end()

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            first = await anext(events)
            more = {"cache-control": "no-cache", "x-accel-buffering": "no", **self._late_headers()}
            self.headers.update(more)
            start = {"type": "http.response.start", "headers": self.raw_headers}
            await send({**start, "status": self.status_code})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for chunk in events:
                if chunk:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def collect(request: Request, work: Awaitable[Result]) -> Result | None:
    """Await `work`; return None if the client hangs up first."""
    return await unless_disconnected(request.receive, work)


async def unless_disconnected(
    receive: Receive, work: Awaitable[Result], *, seconds: float | None = None
) -> Result | None:
    """Await `work`, cancelling it (and returning None) when the client hangs up or time is up."""
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait(
            {working, listening}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        return working.result() if working.done() else None
    finally:
        working.cancel()
        listening.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
