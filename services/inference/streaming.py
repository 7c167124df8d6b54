"""Answers that stop computing when the client hangs up, streamed or whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import TypeVar

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from shared.base.errors import PlatformError

Result = TypeVar("Result")

KEEP_ALIVE = b": still here\n\n"
"""A comment, which clients pass over."""


class EventStream(Response):
    """Server-sent events. `on_end` runs in any case: at the end, on an error, on a disconnect.

    Nothing is sent before the first event is there: until then an error can still be an answer of
    its own, and it is not known yet which version of the model will speak. Only a wait that takes
    long ends that: comments show that the connection lives, and an error becomes an event.
    Whether the client is there is watched all the time, not only when something is sent: a request
    that waits for its slot must leave the queue with its client.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        headers: Callable[[], Mapping[str, str]],
        late_error: Callable[[PlatformError], bytes],
        on_end: Callable[[], None],
        seconds: float,
        keepalive_seconds: float,
    ) -> None:
        """`headers` is asked when the answer begins, `late_error` how to end it after that; a
        client that has not read all of it after `seconds` is cut off."""
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self._events = events
        self._late_headers = headers
        self._late_error = late_error
        self._on_end = on_end
        self._seconds = seconds
        self._keepalive_seconds = keepalive_seconds
        self._sending = asyncio.Lock()
        self._has_begun = False
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the events or the client end."""
        self._sent_at = asyncio.get_running_loop().time()
        keeping_alive = asyncio.ensure_future(self._keep_alive(send))
        try:
            with suppress(OSError):  # the server's word for a client that is gone
                await unless_disconnected(receive, self._send_all(send), seconds=self._seconds)
        finally:
            keeping_alive.cancel()
            await asyncio.gather(keeping_alive, return_exceptions=True)
            self._on_end()

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            try:
                async for chunk in events:
                    await self._send(send, chunk)
            except PlatformError as error:
                if not self._has_begun:
                    raise
                await self._send(send, self._late_error(error))
        await send({"type": "http.response.body", "body": b""})

    async def _send(self, send: Send, chunk: bytes) -> None:
        """Send the start if nothing has been sent, and a piece; one at a time."""
        async with self._sending:
            if not self._has_begun:
                self._has_begun = True
                await self._send_start(send)
            elif not chunk:
                return
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            self._sent_at = asyncio.get_running_loop().time()

    async def _send_start(self, send: Send) -> None:
        more = {"cache-control": "no-cache", "x-accel-buffering": "no", **self._late_headers()}
        self.headers.update(more)
        start = {"type": "http.response.start", "headers": self.raw_headers}
        await send({**start, "status": self.status_code})

    async def _keep_alive(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while True:
                silent = loop.time() - self._sent_at
                if silent >= self._keepalive_seconds:
                    await self._send(send, KEEP_ALIVE)
                    silent = 0.0
                await asyncio.sleep(self._keepalive_seconds - silent)


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
