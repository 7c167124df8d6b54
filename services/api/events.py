"""What a job tells: its stream of events (pages and SSE), curves, log, checkpoints, report.

SSE is written with FastAPI's own encoder (`fastapi.sse`): sse-starlette would be a dependency for
one function. Its generator endpoints are not used, for they cannot cut a client that has stopped
reading: `EventStream` below bounds every single send.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated

import anyio
from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from fastapi.sse import format_sse_event
from starlette.types import Message, Send

from services.api.context import ApiContext, Context
from services.api.hub import EventHub, JobEnded, Signal
from services.api.parameters import MAX_SEQ, AfterSeq, JobId
from shared.base.errors import NotFoundError
from shared.contracts.names import TERMINAL_STATES
from shared.contracts.views import CheckpointView, EventType, EventView, MetricsView, Page
from shared.db.repositories.jobs import get_job
from shared.db.repositories.stream import read_logs
from shared.db.repositories.watch import StreamHead, stream_heads
from shared.db.session import Database
from shared.db.tables import JobRow
from shared.jobs.reading import listings
from shared.jobs.reading.plot import render_loss_svg
from shared.jobs.reading.report import render_report
from shared.storage.keys import report_key

RETRY_MILLISECONDS = 3000
KEEPALIVE = b": still here\n"
"""A comment line; without the empty line that some clients take for an empty event."""
SEND_SECONDS = 30.0
"""A client that takes nothing for so long is cut."""

logger = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

StepBound = Annotated[int | None, Query(ge=0, le=MAX_SEQ)]


class SqlStreamReader:
    """The hub's eyes: streams as the database has them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def heads(self, job_ids: Collection[str]) -> Mapping[str, StreamHead]:
        """Where the streams of these jobs end; unknown jobs are left out."""
        with self._database.reading() as session:
            return stream_heads(session, job_ids)

    def entries(self, job_id: str, *, after: int, limit: int) -> Sequence[EventView]:
        """Up to `limit` entries numbered above `after`, in order."""
        with self._database.reading() as session:
            return listings.read_stream(session, job_id, after=after, limit=limit)


class EventStream(StreamingResponse):
    """A stream of events that ends when its client has taken nothing for SEND_SECONDS."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._events = events

    async def stream_response(self, send: Send) -> None:
        """Send the events, each within the time limit."""

        async def timely(message: Message) -> None:
            with anyio.fail_after(SEND_SECONDS):
                await send(message)

        try:
            await super().stream_response(timely)
        except TimeoutError:
            logger.info("A client has not read its event stream for %.0f s: cut.", SEND_SECONDS)
        finally:
            await self._events.aclose()  # or the hub would serve it until it is collected


@router.get("/events")
def list_events(
    context: ApiContext,
    job_id: JobId,
    after: AfterSeq = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    only: Annotated[EventType | None, Query(alias="type", description="Of this type.")] = None,
) -> Page[EventView]:
    """Entries of a job's stream, oldest first: events, metrics and log lines."""
    with context.database.reading() as session:
        get_job(session, job_id)
        entries = listings.read_stream(session, job_id, after=after, limit=limit + 1, only=only)
    shown, has_more = entries[:limit], len(entries) > limit
    return Page(data=shown, has_more=has_more, next_after=str(shown[-1].seq) if has_more else None)


@router.get("/events/stream", status_code=200, response_class=EventStream)
async def stream_events(
    context: ApiContext,
    job_id: JobId,
    after: AfterSeq = 0,
    last_event_id: Annotated[int | None, Header(ge=0, le=MAX_SEQ)] = None,
) -> Response:
    """Entries as they happen (server-sent events), from `Last-Event-ID` or `after` on.

    Ids are the entries' `seq`; the end of the job is `event: done`, after which the stream closes.
    """
    await anyio.to_thread.run_sync(_require_job, context.database, job_id)
    start = after if last_event_id is None else last_event_id
    return EventStream(_encoded(context.hub, job_id, start))


async def _encoded(hub: EventHub, job_id: str, after: int) -> AsyncGenerator[bytes]:
    yield f"retry: {RETRY_MILLISECONDS}\n".encode()
    async with aclosing(hub.follow(job_id, after=after)) as told:
        async for item in told:
            if isinstance(item, EventView):
                yield format_sse_event(data_str=item.model_dump_json(), id=str(item.seq))
            elif isinstance(item, JobEnded):
                yield format_sse_event(data_str=f'{{"state":"{item.state}"}}', event="done")
            elif item is Signal.QUIET:
                yield KEEPALIVE


@router.get("/metrics")
def read_metrics(
    context: ApiContext,
    job_id: JobId,
    max_points: Annotated[int, Query(ge=2, le=100_000)] = 2000,
    first_step: StepBound = None,
    last_step: StepBound = None,
    superseded: Annotated[
        bool, Query(description="Also points that a resumed attempt wrote again.")
    ] = False,
) -> MetricsView:
    """The job's curves, or a part of them, thinned so that the extremes of the loss remain."""
    with context.database.reading() as session:
        return listings.read_curves(
            session,
            job_id,
            max_points=max_points,
            superseded=superseded,
            steps=(first_step, last_step),
        )


@router.get("/logs", response_class=PlainTextResponse)
def read_job_logs(
    context: ApiContext,
    job_id: JobId,
    after: AfterSeq = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> PlainTextResponse:
    """Lines the job's process wrote, oldest first; `X-Next-After` is the `after` that goes on."""
    with context.database.reading() as session:
        get_job(session, job_id)
        rows = read_logs(session, job_id, after=after, limit=limit)
    last = rows[-1].seq if rows else after
    text = "".join(f"{row.line}\n" for row in rows)
    return PlainTextResponse(text, headers={"X-Next-After": str(last)})


@router.get("/checkpoints")
def list_job_checkpoints(context: ApiContext, job_id: JobId) -> Page[CheckpointView]:
    """The job's checkpoints that retention has kept, by rising step."""
    with context.database.reading() as session:
        return Page(data=listings.job_checkpoints(session, job_id), has_more=False)


@router.get("/report", response_class=PlainTextResponse)
def read_report(context: ApiContext, job_id: JobId) -> Response:
    """The run's report in Markdown: as stored at its end, before that as things stand."""
    job = _require_job(context.database, job_id)
    report = _stored_report(context, job_id) if job.state in TERMINAL_STATES else None
    if report is None:
        report = render_report(context.database, job_id)
    return Response(report, media_type="text/markdown; charset=utf-8")


@router.get("/plot.svg", response_class=Response)
def read_plot(context: ApiContext, job_id: JobId) -> Response:
    """The run's loss curves, as things stand."""
    with context.database.reading() as session:
        job = get_job(session, job_id)
        curves = listings.read_curves(session, job_id, max_points=2000)
    csp = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    svg = render_loss_svg(curves, title=job.name)
    return Response(svg, media_type="image/svg+xml", headers=csp)


def _require_job(database: Database, job_id: str) -> JobRow:
    with database.reading() as session:
        return get_job(session, job_id)


def _stored_report(context: Context, job_id: str) -> str | None:
    try:
        return context.store.get_bytes(report_key(job_id)).decode()
    except NotFoundError:
        return None
