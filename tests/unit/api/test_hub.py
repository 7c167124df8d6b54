"""The hub tells every watcher everything once, in order, whenever it joins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager

import pytest

from services.api.hub import EventHub, JobEnded, Signal, Told
from shared.base.clock import utc_now
from shared.base.errors import NotFoundError, UnavailableError
from shared.contracts.names import JobState
from shared.contracts.views import EventType, EventView
from shared.db.repositories.watch import StreamHead

JOB = "job_1"


class Streams:
    """A reader over lists, that counts its calls."""

    def __init__(self, *job_ids: str) -> None:
        self.seqs: dict[str, list[int]] = {job_id: [] for job_id in job_ids}
        self.states = dict.fromkeys(job_ids, JobState.RUNNING)
        self.reads = 0
        self.away = False

    def append(self, job_id: str, *seqs: int) -> None:
        self.seqs[job_id] += seqs

    def heads(self, job_ids: Collection[str]) -> Mapping[str, StreamHead]:
        if self.away:
            raise UnavailableError("The database is away.")
        return {
            job_id: StreamHead(seq=max(self.seqs[job_id], default=0), state=self.states[job_id])
            for job_id in job_ids
            if job_id in self.seqs
        }

    def entries(self, job_id: str, *, after: int, limit: int) -> Sequence[EventView]:
        self.reads += 1
        chosen = [seq for seq in self.seqs[job_id] if seq > after][:limit]
        return [
            EventView(seq=seq, type=EventType.NOTICE, attempt=1, at=utc_now(), data={})
            for seq in chosen
        ]


@asynccontextmanager
async def running(streams: Streams, **options: float) -> AsyncIterator[EventHub]:
    hub = EventHub(streams, **{"interval": 0.01, **options})  # type: ignore[arg-type]
    task = asyncio.create_task(hub.run())
    try:
        yield hub
    finally:
        task.cancel()


async def collect(hub: EventHub, job_id: str = JOB, *, after: int = 0) -> list[int | str]:
    """Everything told until the end, as numbers and names."""
    told: list[int | str] = []
    async with aclosing(hub.follow(job_id, after=after)) as items:
        async for item in items:
            told.append(_short(item))
    return told


def _short(item: Told) -> int | str:
    if isinstance(item, EventView):
        return item.seq
    return f"ended {item.state}" if isinstance(item, JobEnded) else item.name


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the hub tells nobody who watches
            await asyncio.sleep(0.001)


async def until_watched(hub: EventHub, count: int = 1) -> None:
    await until(lambda: hub.num_watchers == count)


def test_what_was_missed_and_what_is_new_come_once_and_in_order() -> None:
    async def scenario() -> None:
        streams = Streams(JOB)
        streams.append(JOB, *range(1, 1201))
        async with running(streams) as hub:
            watching = asyncio.create_task(collect(hub))
            await until_watched(hub)
            for seq in range(1201, 1301):
                streams.append(JOB, seq)
                await asyncio.sleep(0)
            streams.states[JOB] = JobState.SUCCEEDED
            assert await watching == [*range(1, 1301), "ended succeeded"]
            assert hub.num_watchers == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("after", [0, 1, 3, 5, 9])
def test_a_watcher_of_an_ended_job_gets_the_rest_and_the_end(after: int) -> None:
    async def scenario() -> None:
        streams = Streams(JOB)
        streams.append(JOB, 1, 2, 4, 5)
        streams.states[JOB] = JobState.FAILED
        async with running(streams) as hub:
            expected = [seq for seq in (1, 2, 4, 5) if seq > after]
            assert await collect(hub, after=after) == [*expected, "ended failed"]

    asyncio.run(scenario())


def test_one_read_serves_every_watcher() -> None:
    async def scenario() -> None:
        streams = Streams(JOB)
        async with running(streams) as hub:
            watching = [asyncio.create_task(collect(hub)) for _ in range(20)]
            await until_watched(hub, 20)
            streams.append(JOB, 1, 2, 3)
            streams.states[JOB] = JobState.CANCELLED
            results = await asyncio.gather(*watching)
        assert results == [[1, 2, 3, "ended cancelled"]] * 20
        assert streams.reads == 1

    asyncio.run(scenario())


def test_jobs_are_kept_apart() -> None:
    async def scenario() -> None:
        streams = Streams("a", "b")
        async with running(streams) as hub:
            both = [asyncio.create_task(collect(hub, job_id)) for job_id in ("a", "b")]
            await until_watched(hub, 2)
            streams.append("a", 1)
            streams.append("b", 1, 2)
            streams.states.update(a=JobState.SUCCEEDED, b=JobState.FAILED)
            assert await asyncio.gather(*both) == [[1, "ended succeeded"], [1, 2, "ended failed"]]

    asyncio.run(scenario())


def test_a_watcher_that_does_not_keep_up_is_cut_and_comes_back_for_the_rest() -> None:
    async def scenario() -> None:
        streams = Streams(JOB)
        async with running(streams, queue_size=10) as hub:
            told: list[int | str] = []
            async with aclosing(hub.follow(JOB, after=0)) as items:
                streams.append(JOB, 1)
                told.append(_short(await anext(items)))
                streams.append(JOB, *range(2, 100))
                await until(lambda: hub.num_watchers == 0)  # the hub has given it up
                told += [_short(item) async for item in items]
            assert told == [1, "CUT"]
            streams.states[JOB] = JobState.SUCCEEDED
            assert await collect(hub, after=1) == [*range(2, 100), "ended succeeded"]

    asyncio.run(scenario())


def test_a_hint_is_faster_than_the_interval() -> None:
    async def scenario() -> None:
        streams = Streams(JOB)
        async with running(streams, interval=3600.0) as hub:
            watching = asyncio.create_task(collect(hub))
            await until_watched(hub)
            streams.append(JOB, 1)
            streams.states[JOB] = JobState.SUCCEEDED
            await asyncio.to_thread(hub.wake)
            async with asyncio.timeout(10):
                assert await watching == [1, "ended succeeded"]

    asyncio.run(scenario())


def test_an_outage_is_waited_out() -> None:
    async def scenario() -> None:
        streams = Streams(JOB)
        async with running(streams) as hub:
            watching = asyncio.create_task(collect(hub))
            await until_watched(hub)
            streams.away = True
            streams.append(JOB, 1)
            await asyncio.sleep(0.1)
            assert not watching.done()
            streams.away = False
            streams.states[JOB] = JobState.SUCCEEDED
            assert await watching == [1, "ended succeeded"]

    asyncio.run(scenario())


def test_silence_is_told_too() -> None:
    async def scenario() -> None:
        async with (
            running(Streams(JOB), quiet_seconds=0.01) as hub,
            aclosing(hub.follow(JOB, after=0)) as items,
        ):
            assert await anext(items) is Signal.QUIET
            assert await anext(items) is Signal.QUIET

    asyncio.run(scenario())


def test_closing_ends_every_stream_and_opens_none() -> None:
    async def scenario() -> None:
        async with running(Streams(JOB)) as hub:
            watching = asyncio.create_task(collect(hub))
            await until_watched(hub)
            hub.close()
            assert await watching == ["CUT"]
            assert await collect(hub) == ["CUT"]

    asyncio.run(scenario())


def test_an_unknown_job_is_not_watched() -> None:
    async def scenario() -> None:
        async with running(Streams()) as hub:
            with pytest.raises(NotFoundError):
                await collect(hub)
            assert hub.num_watchers == 0

    asyncio.run(scenario())
