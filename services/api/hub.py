"""One look at the database for everybody who watches a job: new entries fan out to all of them.

The hub polls every `interval` seconds, sooner on a hint. A watcher first reads what it has missed,
page by page, then takes what the hub puts into its bounded queue; one that does not keep up is cut
and comes back for the rest. No database session is held between two polls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from shared.base.errors import NotFoundError, UnavailableError
from shared.contracts.names import TERMINAL_STATES, JobState
from shared.contracts.views import EventView
from shared.db.repositories.watch import StreamHead

POLL_SECONDS = 0.25
MIN_PAUSE_SECONDS = 0.02
"""Between two polls, however many hints arrive."""
QUIET_SECONDS = 15.0
PAGE_SIZE = 500
QUEUE_SIZE = 2000

logger = logging.getLogger(__name__)


class StreamReader(Protocol):
    """Reads the streams of jobs; every call is short and runs in a thread."""

    def heads(self, job_ids: Collection[str]) -> Mapping[str, StreamHead]:
        """Where the streams of these jobs end; unknown jobs are left out."""

    def entries(self, job_id: str, *, after: int, limit: int) -> Sequence[EventView]:
        """Up to `limit` entries numbered above `after`, in order."""


class Signal(Enum):
    """What a watcher is told besides entries."""

    QUIET = auto()
    """Nothing has happened for a while; the connection is alive."""
    CUT = auto()
    """The watcher was too slow, or the service is stopping: ask again for the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnded:
    """The last thing a watcher is told."""

    state: JobState


Told = EventView | JobEnded | Signal


@dataclass(eq=False, slots=True)
class _Watcher:
    queue: asyncio.Queue[Told]

    def tell(self, item: Told) -> bool:
        """Put `item` into the queue; False, and a cut in its place, when it is full."""
        try:
            self.queue.put_nowait(item)
        except asyncio.QueueFull:
            while not self.queue.empty():
                self.queue.get_nowait()
            self.queue.put_nowait(Signal.CUT)
            return False
        return True


@dataclass(slots=True)
class _Feed:
    """A job that somebody watches."""

    cursor: int
    """Number up to which entries have been handed to the watchers."""
    watchers: set[_Watcher] = field(default_factory=set)


class EventHub:
    """Lives on one event loop; only `wake` may be called from other threads."""

    def __init__(
        self,
        reader: StreamReader,
        *,
        interval: float = POLL_SECONDS,
        quiet_seconds: float = QUIET_SECONDS,
        queue_size: int = QUEUE_SIZE,
    ) -> None:
        self._reader = reader
        self._interval = interval
        self._quiet_seconds = quiet_seconds
        self._queue_size = queue_size
        self._feeds: dict[str, _Feed] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()
        self._closed = False

    @property
    def num_watchers(self) -> int:
        """Open streams."""
        return sum(len(feed.watchers) for feed in self._feeds.values())

    def wake(self) -> None:
        """Poll now. Safe to call from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._woken.set)

    def close(self) -> None:
        """Cut every watcher and accept no more, so that the service can stop."""
        self._closed = True
        for feed in self._feeds.values():
            for watcher in feed.watchers:
                watcher.tell(Signal.CUT)

    async def run(self) -> None:
        """Poll until cancelled."""
        self._loop = asyncio.get_running_loop()
        available = True
        while True:
            await asyncio.sleep(MIN_PAUSE_SECONDS)
            await self._pause()
            try:
                await self._poll()
                available = True
            except UnavailableError as error:
                if available:
                    logger.warning("Streams wait: %s", error.message)
                available = False
            except Exception:
                logger.exception("The hub could not read the streams; it goes on.")

    async def follow(self, job_id: str, *, after: int) -> AsyncGenerator[Told]:
        """Yield every entry numbered above `after`, once and in order, and `JobEnded` at the end.

        `Signal.QUIET` comes when there was nothing to tell for a while; after `Signal.CUT` nothing
        follows. Raises NotFoundError for an unknown job.
        """
        head = (await asyncio.to_thread(self._reader.heads, [job_id])).get(job_id)
        if head is None:
            raise NotFoundError(f"There is no job {job_id}.")
        watcher = _Watcher(asyncio.Queue(self._queue_size))
        feed = self._feeds.setdefault(job_id, _Feed(cursor=head.seq))
        feed.watchers.add(watcher)
        try:
            async for item in self._missed_then_new(job_id, watcher, after, feed.cursor):
                yield item
                if isinstance(item, JobEnded) or item is Signal.CUT:
                    return
        finally:
            feed.watchers.discard(watcher)
            if not feed.watchers and self._feeds.get(job_id) is feed:
                del self._feeds[job_id]

    async def _missed_then_new(
        self, job_id: str, watcher: _Watcher, cursor: int, joined_at: int
    ) -> AsyncGenerator[Told]:
        """Entries up to `joined_at` come from the database, later ones are in the queue."""
        if self._closed:
            yield Signal.CUT
        while cursor < joined_at:
            page = await asyncio.to_thread(
                self._reader.entries, job_id, after=cursor, limit=PAGE_SIZE
            )
            for entry in page:
                yield entry
            cursor = page[-1].seq if page else joined_at
        while True:
            item = await self._next(watcher)
            if not isinstance(item, EventView):
                yield item
            elif item.seq > cursor:
                cursor = item.seq
                yield item

    async def _next(self, watcher: _Watcher) -> Told:
        try:
            async with asyncio.timeout(self._quiet_seconds):
                return await watcher.queue.get()
        except TimeoutError:
            return Signal.QUIET

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._interval):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()

    async def _poll(self) -> None:
        if not self._feeds:
            return
        heads = await asyncio.to_thread(self._reader.heads, list(self._feeds))
        for job_id, head in heads.items():
            feed = self._feeds.get(job_id)
            if feed is not None:
                await self._bring_up_to_date(job_id, feed, head)

    async def _bring_up_to_date(self, job_id: str, feed: _Feed, head: StreamHead) -> None:
        while feed.cursor < head.seq:
            page = await asyncio.to_thread(
                self._reader.entries, job_id, after=feed.cursor, limit=PAGE_SIZE
            )
            for entry in page:
                _tell_all(feed, entry)
            complete = len(page) < PAGE_SIZE
            newest = page[-1].seq if page else head.seq
            feed.cursor = max(newest, head.seq) if complete else newest
        if head.state in TERMINAL_STATES:
            _tell_all(feed, JobEnded(state=head.state))
            feed.watchers = set()


def _tell_all(feed: _Feed, item: Told) -> None:
    """A watcher that is cut leaves the feed at once, so that nothing follows its cut."""
    feed.watchers = {watcher for watcher in feed.watchers if watcher.tell(item)}
