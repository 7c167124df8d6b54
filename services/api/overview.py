"""The list of jobs, live: what has changed about any of them, to everybody who looks at the list.

One look at the database a second serves all of them, and none is taken while nobody looks. Entries
of one job's stream are the hub's business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from fastapi import APIRouter, Response
from fastapi.sse import format_sse_event

from services.api.context import ApiContext, Context
from services.api.events import KEEPALIVE, RETRY_MILLISECONDS, EventStream
from shared.base.errors import UnavailableError
from shared.contracts.jobs import JobView
from shared.contracts.names import JobState
from shared.db.session import Database
from shared.jobs.reading.listings import jobs_page

POLL_SECONDS = 1.0
QUIET_SECONDS = 15.0
NUM_NEWEST = 100
"""Jobs that are looked at, beside all that run or are paused."""
QUEUE_SIZE = 20
"""Batches that a slow client may be behind before it is cut."""

logger = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/events", tags=["jobs"])

Changes = Sequence[JobView] | None
"""Jobs that are not as they were; None when the stream must end."""


def read_overview(database: Database) -> dict[str, JobView]:
    """The newest jobs and those at work, by id."""
    with database.reading() as session:
        pages = [jobs_page(session, limit=NUM_NEWEST)]
        pages += [
            jobs_page(session, state=state, limit=NUM_NEWEST)
            for state in (JobState.RUNNING, JobState.PAUSED)
        ]
    return {job.id: job for page in pages for job in page.data}


class Overview:
    """Compares what it sees with what it saw; lives on one event loop."""

    def __init__(
        self, read: Callable[[], dict[str, JobView]], *, interval: float = POLL_SECONDS
    ) -> None:
        self._read = read
        self._interval = interval
        self._watchers: set[asyncio.Queue[Changes]] = set()
        self._seen: dict[str, JobView] = {}
        self._closed = False

    def close(self) -> None:
        """End every stream and begin no more."""
        self._closed = True
        for queue in self._watchers:
            _put_last(queue, None)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self._look()
            except UnavailableError as error:
                logger.warning("The overview waits: %s", error.message)
            except Exception:
                logger.exception("The overview could not be read; it goes on.")

    async def follow(self) -> AsyncGenerator[Sequence[JobView]]:
        """Yield first every job, then those that have changed; nothing new is an empty list."""
        queue: asyncio.Queue[Changes] = asyncio.Queue(QUEUE_SIZE)
        if not self._watchers:
            self._seen = await asyncio.to_thread(self._read)
        self._watchers.add(queue)
        try:
            yield list(self._seen.values())
            while not self._closed:
                changed = await _next(queue)
                if changed is None:
                    return
                yield changed
        finally:
            self._watchers.discard(queue)

    async def _look(self) -> None:
        if not self._watchers:
            return
        now = await asyncio.to_thread(self._read)
        changed = [job for id_, job in now.items() if self._seen.get(id_) != job]
        self._seen = now
        if not changed:
            return
        for queue in list(self._watchers):
            if queue.full():
                self._watchers.discard(queue)
                _put_last(queue, None)
            else:
                queue.put_nowait(changed)


async def _next(queue: asyncio.Queue[Changes]) -> Changes:
    try:
        async with asyncio.timeout(QUIET_SECONDS):
            return await queue.get()
    except TimeoutError:
        return ()


def _put_last(queue: asyncio.Queue[Changes], item: Changes) -> None:
    while not queue.empty():
        queue.get_nowait()
    queue.put_nowait(item)


@router.get("/stream", status_code=200, response_class=EventStream)
async def stream_jobs(context: ApiContext) -> Response:
    """Jobs as they are and as they change (server-sent events): each event is an array of jobs.

    The first one has the newest jobs and all that run; later ones those that have changed.
    """
    return EventStream(_encoded(context))


async def _encoded(context: Context) -> AsyncGenerator[bytes]:
    yield f"retry: {RETRY_MILLISECONDS}\n".encode()
    first = True  # told even when it is empty: a page must know that there are no jobs
    async with aclosing(context.overview.follow()) as told:
        async for jobs in told:
            if jobs or first:
                first = False
                documents = ",".join(job.model_dump_json() for job in jobs)
                yield format_sse_event(data_str=f"[{documents}]")
            else:
                yield KEEPALIVE
