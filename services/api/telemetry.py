"""What Prometheus may know: requests of this process, and jobs as the database counts them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.api.hub import EventHub
from shared.base.clock import utc_now
from shared.base.errors import UnavailableError
from shared.base.http_security import AsgiApp, Message, Receive, Scope, Send
from shared.contracts.names import JobState, Queue
from shared.db.repositories.jobs import count_by_state
from shared.db.repositories.workers import find_leader, list_workers
from shared.db.session import Database
from shared.jobs.leader.leadership import LEADER_NAME

UNMATCHED = "unmatched"
"""Route of requests that were refused before routing, or by it."""
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

logger = logging.getLogger(__name__)


class RequestMetrics:
    """Counts requests and the seconds until their answer begins, by route, method and status."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "ryangpt_http_requests",
            "Answered HTTP requests.",
            ["route", "method", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "ryangpt_http_response_start_seconds",
            "Time until the answer's first byte.",
            ["route", "method", "status"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        """Add one answered request; the route's template is its label, never a path with ids."""
        route = getattr(scope.get("route"), "path", UNMATCHED)
        method = scope["method"] if route != UNMATCHED else "any"
        self._requests.labels(route, method, status).inc()
        self._seconds.labels(route, method, status).observe(seconds)


class TelemetryMiddleware:
    """Observes every answer, also those that the security middleware gives."""

    def __init__(self, app: AsgiApp, *, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.observe(scope, message["status"], time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, observed)


class PlatformCollector(Collector):
    """Asks the database at each scrape: jobs by queue and state, workers, the leader; and the hub.

    With the database away the platform's metrics are left out, the process's own remain.
    """

    def __init__(self, database: Database, hub: EventHub) -> None:
        self._database = database
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        """Yield one family a fact."""
        streams = GaugeMetricFamily("ryangpt_event_streams", "Open streams of events.")
        streams.add_metric([], self._hub.num_watchers)
        yield streams
        try:
            yield from self._from_database()
        except UnavailableError as error:
            logger.warning("Metrics without the database: %s", error.message)

    def _from_database(self) -> list[Metric]:
        with self._database.reading() as session:
            counts = count_by_state(session)
            alive = list_workers(session)
            leader = find_leader(session, LEADER_NAME)
        jobs = GaugeMetricFamily("ryangpt_jobs", "Jobs.", labels=["queue", "state"])
        for queue, state in product(Queue, JobState):
            jobs.add_metric([queue, state], counts.get((queue, state), 0))
        slots = GaugeMetricFamily("ryangpt_worker_slots", "Slots.", labels=["worker", "queue"])
        seen = GaugeMetricFamily(
            "ryangpt_worker_silence_seconds", "Since the worker's last sign.", labels=["worker"]
        )
        for worker in alive:
            seen.add_metric([worker.id], (utc_now() - worker.heartbeat_at).total_seconds())
            for lane, number in worker.slots.items():
                slots.add_metric([worker.id, lane], number)
        lease = GaugeMetricFamily(
            "ryangpt_leader_lease_seconds", "Left of the leader's lease.", labels=["owner"]
        )
        if leader is not None and leader.owner:
            lease.add_metric([leader.owner], (leader.expires_at - utc_now()).total_seconds())
        return [jobs, slots, seen, lease]
