"""A TCP proxy in front of one server; a test makes the network behind it as bad as it likes.

Knows no protocol. All proxies share one event loop in a thread of its own.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

CHUNK_BYTES = 1 << 16
LINGER_RESETS = struct.pack("ii", 1, 0)
Result = TypeVar("Result")


@dataclass(slots=True, kw_only=True)
class Tripwire:
    """Acts once, when a request that matches passes, or else right before its answer does.

    What tripped it is not forwarded, and its connection is reset.
    """

    pattern: re.Pattern[bytes]
    action: Callable[[], None]
    on_answer: bool = False
    tripped: threading.Event = field(default_factory=threading.Event)
    at: datetime = field(default_factory=partial(datetime.now, UTC))
    """When it tripped."""


@dataclass(slots=True, eq=False)
class _Link:
    """A client's connection and ours to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    awaits_answer: bool = False
    """Whether the tripwire's request has passed here."""

    def reset(self) -> None:
        for writer in (self.client, self.server):
            connection = writer.get_extra_info("socket")
            if connection is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESETS)
            writer.transport.abort()


class Proxy:
    """Listens on `port` of the loopback device; every method may be called from any thread."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.port = 0
        self.latency = 0.0
        """Seconds that each chunk waits."""
        self.bytes_per_second = 0
        """Bound of each connection's speed; 0 is none."""
        self.reset_share = 0.0
        """Of the chunks that clients send, this share resets the connection."""
        self.tripwire: Tripwire | None = None
        _on_loop(self._listen())

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        _on_loop(self._cut())

    def mend(self) -> None:
        """End whatever was wrong."""
        self.latency, self.bytes_per_second, self.reset_share = 0.0, 0, 0.0
        _on_loop(self._mend())

    def hold(self) -> None:
        """Let nothing pass in either direction, while connections stay open and are accepted.

        What was sent meanwhile arrives after `mend`, as after a partition.
        """
        _on_loop(self._hold())

    def reset(self) -> None:
        """Reset every connection; new ones are served."""
        _on_loop(self._reset())

    def close(self) -> None:
        """Stop for good."""
        _on_loop(self._cut())

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._reset()

    async def _mend(self) -> None:
        self._flows.set()
        if self._listener is None:
            await self._listen()

    async def _hold(self) -> None:
        self._flows.clear()

    async def _reset(self) -> None:
        for link in list(self._links):
            link.reset()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        await self._flows.wait()
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            client.transport.abort()
            return
        link = _Link(client, server)
        self._links.add(link)
        pumps = [
            asyncio.create_task(self._pump(link, reader, server, self._request_trips)),
            asyncio.create_task(self._pump(link, answers, client, self._answer_trips)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            self._links.discard(link)
            for writer in (client, server):
                writer.close()

    async def _pump(
        self,
        link: _Link,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        trips: Callable[[_Link, bytes], bool],
    ) -> None:
        try:
            while chunk := await source.read(CHUNK_BYTES):
                await self._flows.wait()
                slow = len(chunk) / self.bytes_per_second if self.bytes_per_second else 0.0
                if self.latency + slow:
                    await asyncio.sleep(self.latency + slow)
                if trips(link, chunk):
                    link.reset()
                    return
                target.write(chunk)
                await target.drain()
        except OSError:
            return  # one end has gone; the other is closed by `_serve`

    def _request_trips(self, link: _Link, chunk: bytes) -> bool:
        wire = self.tripwire
        if wire is not None and wire.pattern.search(chunk):
            if not wire.on_answer:
                return self._trip(wire)
            link.awaits_answer = True
        return self.reset_share > 0 and random.random() < self.reset_share

    def _answer_trips(self, link: _Link, _chunk: bytes) -> bool:
        wire = self.tripwire
        return wire is not None and link.awaits_answer and self._trip(wire)

    def _trip(self, wire: Tripwire) -> bool:
        self.tripwire = None
        wire.action()
        wire.at = datetime.now(UTC)
        wire.tripped.set()
        return True


_loop: asyncio.AbstractEventLoop | None = None
_loop_lock = threading.Lock()


def _on_loop(work: Coroutine[Any, Any, Result]) -> Result:
    """Run `work` on the proxies' loop, which the first call starts, and wait for it."""
    global _loop
    with _loop_lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="proxies", daemon=True).start()
    return asyncio.run_coroutine_threadsafe(work, _loop).result()
