"""The API and the queue under load, on SQLite and on a real PostgreSQL.

    python -m benchmarks.load [--requests 200] [--clients 200]

With 10,000 queued jobs and 100,000 points in one curve: how long the pages of a list and a thinned
curve take over HTTP, from one client at a time. 200 clients follow a job's events while the API is
killed and started again: how many events each missed or saw twice. 8 processes claim 2,000 jobs:
how many were claimed twice. Each figure is printed when it is known; writes
benchmarks/results/load.json; exits 1 when one of the counts is not zero.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median, quantiles

import httpx
from httpx_sse import aconnect_sse

from shared.base.clock import utc_now
from shared.base.errors import UnavailableError
from shared.base.files import write_bytes
from shared.base.settings import child_environment
from shared.base.version import code_version
from shared.contracts.names import Queue
from shared.contracts.progress import LogLine
from shared.db.migrate import upgrade
from shared.db.repositories.stream import add_stream
from shared.db.session import Database
from shared.db.tables import MetricRow
from shared.jobs.life.lifecycle import cancelled, claim, heartbeat
from shared.jobs.life.recorder import record
from tests.support.postgres import CannotStartError, running_postgres
from tests.support.rows import add_queued, running_training
from tests.support.s3_servers import free_port

RESULT = Path(__file__).parent / "results" / "load.json"
QUEUED_JOBS, POINTS, CHUNK = 10_000, 100_000, 1000
CLAIMERS, CLAIMED_JOBS = 8, 2000
START_SECONDS = 300
CLAIM_PAUSE_SECONDS = 0.5
"""At most, before a claim is repeated."""
EVENT_BATCHES, BATCH = 150, 10
KILL_AT_BATCH = 50
LIST_BOUND_MS, METRICS_BOUND_MS = 100.0, 200.0
"""What a page of a list and a thinned curve may take, 99 of 100 times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds of one kind of request."""

    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: list[float]) -> Latency:
        """Of at least two measurements."""
        return cls(p50=1000 * median(seconds), p99=1000 * quantiles(seconds, n=100)[98])


@dataclass(frozen=True, slots=True, kw_only=True)
class PageReport:
    """How long answers take."""

    jobs: Latency
    queued_jobs: Latency
    curve: Latency
    curve_points: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """What the followers of a job have seen."""

    clients: int
    events: int
    missed: int
    repeated: int
    reconnects: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimReport:
    """What the claimers got."""

    claimed: int
    claimed_twice: int
    refused: int
    """Claims that had to be repeated, the database being busy."""
    claims_per_second: float
    claim: Latency


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one database yields."""

    pages: PageReport
    stream: StreamReport
    claims: ClaimReport

    @property
    def is_good(self) -> bool:
        """Whether the counts are what they must be."""
        wrong = (self.stream.missed, self.stream.repeated, self.claims.claimed_twice)
        return wrong == (0, 0, 0) and self.claims.claimed == CLAIMED_JOBS


class Api:
    """The API as a process that can be killed and started again on its port."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self._log = (folder / "api.log").open("ab")
        self._environment = child_environment(
            RYANGPT_DATA_DIR=str(folder), RYANGPT_DATABASE_URL=database_url,
            RYANGPT_API_PORT=str(port), RYANGPT_REDIS_URL="redis://127.0.0.1:1/0",
        )  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it answers."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "services.api"],
            env=self._environment, stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):  # it does not listen yet
                answer = httpx.get(f"{self.url}/health/ready", trust_env=False, timeout=60)
                if answer.status_code == 200:
                    return
            time.sleep(0.1)
        raise TimeoutError(f"the API is not ready after {START_SECONDS} s")

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def add_long_curve(database: Database) -> str:
    """A train job with POINTS points, written as the relay writes them."""
    with database.transaction() as session:
        job = running_training(session)
    for first in range(1, POINTS + 1, CHUNK):
        rows = [
            MetricRow(
                job_id=job.id, seq=job.seq + n, series="train", attempt=1, step=n, tokens=n * 1000,
                at=utc_now(), loss=(loss := 9.0 - n / POINTS + (n * 7919 % 1000) / 1000),
                values={"loss": loss, "learning_rate": 1e-4, "grad_norm": 1.0,
                        "tokens_per_second": 1e4},
            )
            for n in range(first, first + CHUNK)
        ]  # fmt: skip
        with database.transaction() as session:
            add_stream(session, events=[], logs=[], metrics=rows)
    with database.transaction() as session:
        cancelled(session, job.id, job.token)
    return job.id


def measure(url: str, requests: int) -> tuple[Latency, int]:
    """Ask again and again; return the times and the size of the last answer's longest list."""
    seconds = []
    with httpx.Client(trust_env=False, timeout=60) as client:
        client.get(url)  # the first opens connections and caches, and is not counted
        for _ in range(requests):
            began = time.perf_counter()
            answer = client.get(url).raise_for_status()
            seconds.append(time.perf_counter() - began)
    document = answer.json()
    size = len(document["data"]) if "data" in document else len(document["series"]["train"])
    return Latency.of(seconds), size


async def follow(url: str, seen: list[int], reconnects: list[int]) -> None:
    """Collect the numbers of a job's events until its end, coming back after each cut."""
    async with httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(60, read=30)) as client:
        while True:
            headers = {"Last-Event-ID": str(seen[-1])} if seen else {}
            try:
                async with aconnect_sse(client, "GET", url, headers=headers) as source:
                    async for event in source.aiter_sse():
                        if event.event == "done":
                            return
                        seen.append(int(event.id))
            except (httpx.TransportError, httpx.HTTPStatusError):
                reconnects.append(1)
            await asyncio.sleep(0.2)


async def follow_all(url: str, clients: int) -> tuple[list[list[int]], int]:
    """What each of many clients has seen, and how often they had to come back."""
    seen: list[list[int]] = [[] for _ in range(clients)]
    reconnects: list[int] = []
    await asyncio.gather(*(follow(url, numbers, reconnects) for numbers in seen))
    return seen, len(reconnects)


def read_pages(url: str, curve_job: str, requests: int) -> PageReport:
    """Ask for each of them often."""
    jobs, _ = measure(f"{url}/v1/jobs?limit=50", requests)
    queued_jobs, _ = measure(f"{url}/v1/jobs?state=queued&limit=50", requests)
    curve, points = measure(f"{url}/v1/jobs/{curve_job}/metrics?max_points=2000", requests)
    return PageReport(jobs=jobs, queued_jobs=queued_jobs, curve=curve, curve_points=points)


def stream(database: Database, api: Api, clients: int) -> StreamReport:
    """Write events, kill and restart the API meanwhile, and report what the clients have seen."""
    with database.transaction() as session:
        job = running_training(session)

    def write() -> None:
        time.sleep(2)
        for batch in range(EVENT_BATCHES):
            lines = [LogLine(line=f"line {batch} {n}") for n in range(BATCH)]
            with database.transaction() as session:
                heartbeat(session, job.id, job.token, lease_seconds=45)
                record(session, job.id, job.token, lines)
            if batch == KILL_AT_BATCH:
                api.kill()
                threading.Thread(target=api.start).start()
            time.sleep(0.1)
        with database.transaction() as session:
            last.append(cancelled(session, job.id, job.token).seq)

    last: list[int] = []
    writer = threading.Thread(target=write)
    writer.start()
    url = f"{api.url}/v1/jobs/{job.id}/events/stream"
    seen, reconnects = asyncio.run(follow_all(url, clients))
    writer.join()
    everything = set(range(1, last[0] + 1))
    return StreamReport(
        clients=clients, events=last[0], reconnects=reconnects,
        missed=sum(len(everything - set(one)) for one in seen),
        repeated=sum(len(one) - len(set(one)) for one in seen),
    )  # fmt: skip


def claim_all(database_url: str) -> tuple[list[tuple[str, float]], int]:
    """Claim until nothing is left: ids, seconds of each, and how often one had to be repeated."""
    database, claimed, refused = Database(database_url), list[tuple[str, float]](), 0
    worker_id, began = f"w{os.getpid()}", time.perf_counter()
    while True:
        try:
            with database.transaction() as session:
                row = claim(session, Queue.TRAINER_LIGHT, worker_id=worker_id, lease_seconds=600)
        except UnavailableError:
            refused += 1
            time.sleep(random.uniform(0.0, CLAIM_PAUSE_SECONDS))
            continue
        if row is None:
            database.close()
            return claimed, refused
        claimed.append((row.id, time.perf_counter() - began))
        began = time.perf_counter()


def race(database_url: str) -> ClaimReport:
    """Let many processes claim the same jobs."""
    began = time.perf_counter()
    with ProcessPoolExecutor(CLAIMERS, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(claim_all, [database_url] * CLAIMERS))
    elapsed = time.perf_counter() - began
    claims = [one for claimed, _ in found for one in claimed]
    counts = Counter(job_id for job_id, _ in claims)
    return ClaimReport(
        claimed=len(counts), claimed_twice=sum(number > 1 for number in counts.values()),
        refused=sum(refused for _, refused in found), claims_per_second=len(claims) / elapsed,
        claim=Latency.of([seconds for _, seconds in claims]),
    )  # fmt: skip


def run(database_url: str, folder: Path, requests: int, clients: int) -> Report:
    """All of it on one database; each part prints what it has found."""
    database = Database(database_url)
    upgrade(database)
    add_queued(database, [""] * QUEUED_JOBS)
    add_queued(database, [""] * CLAIMED_JOBS, queue=Queue.TRAINER_LIGHT)
    curve_job = add_long_curve(database)
    api = Api(database_url, folder)
    api.start()
    try:
        pages = read_pages(api.url, curve_job, requests)
        show_pages(pages)
        followed = stream(database, api, clients)
        show_stream(followed)
    finally:
        api.kill()
        database.close()
    claims = race(database_url)
    show_claims(claims)
    return Report(pages=pages, stream=followed, claims=claims)


@contextmanager
def sqlite(folder: Path) -> Iterator[str]:
    """A file."""
    yield f"sqlite:///{folder / 'load.db'}"


@contextmanager
def postgresql(_folder: Path) -> Iterator[str]:
    """A server of our own."""
    with running_postgres() as url:
        yield url


def show_pages(report: PageReport) -> None:
    """Print how long answers take, beside what is allowed."""
    curve = f"curve ({report.curve_points} of {POINTS} points)"
    for title, latency, bound in (
        ("page of jobs", report.jobs, LIST_BOUND_MS),
        ("page of queued jobs", report.queued_jobs, LIST_BOUND_MS),
        (curve, report.curve, METRICS_BOUND_MS),
    ):
        ratio = latency.p99 / bound
        say(
            f"  {title:34} p50 {latency.p50:6.1f} ms   p99 {latency.p99:6.1f} ms   "
            f"{ratio:.2f} of the {bound:.0f} ms allowed"
        )


def show_stream(report: StreamReport) -> None:
    """Print what was missed."""
    say(
        f"  {report.clients} clients, {report.events} events, API killed once: {report.missed} "
        f"missed, {report.repeated} repeated, {report.reconnects} failed connections"
    )


def show_claims(report: ClaimReport) -> None:
    """Print who got what."""
    say(
        f"  {CLAIMERS} claimers, {report.claimed} of {CLAIMED_JOBS} jobs: {report.claimed_twice} "
        f"claimed twice, {report.refused} busy, {report.claims_per_second:.0f} a second, "
        f"p50 {report.claim.p50:.1f} ms, p99 {report.claim.p99:.1f} ms"
    )


def say(text: str) -> None:
    """Print at once: whoever waits wants to see that it goes on."""
    print(text, flush=True)


def main() -> int:
    """Measure both databases; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=200)
    options = parser.parse_args()
    results: dict[str, object] = {}
    good = True
    for name, opened in (("SQLite", sqlite), ("PostgreSQL", postgresql)):
        say(f"\n{name}")
        with tempfile.TemporaryDirectory() as folder:
            try:
                with opened(Path(folder)) as url:
                    report = run(url, Path(folder), options.requests, options.clients)
            except CannotStartError as error:
                say(f"  not measured, {error}")
                continue
        good = report.is_good and good
        results[name] = asdict(report)
        write(results)
    return 0 if good else 1


def write(databases: dict[str, object]) -> None:
    """Keep what has been measured so far."""
    document = {
        "code_version": code_version(), "at": utc_now().isoformat(timespec="seconds"),
        "cpus": os.cpu_count(), "queued_jobs": QUEUED_JOBS, "points": POINTS,
        "databases": databases,
    }  # fmt: skip
    write_bytes(RESULT, json.dumps(document, indent=2).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
