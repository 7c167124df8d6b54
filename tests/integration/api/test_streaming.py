"""A job's stream over real sockets: broken connections, a killed server, a stopping server."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent

from shared.contracts.progress import LogLine, MetricsLine, NoticeLine
from shared.db.repositories.workers import find_leader
from shared.db.session import Database
from shared.db.tables import JobRow
from shared.jobs.leader.leadership import LEADER_NAME
from shared.jobs.life.lifecycle import succeed
from shared.jobs.life.recorder import record
from shared.jobs.reading.listings import read_stream
from tests.support import rows
from tests.support.api_server import HEADERS, ApiServer, running_api
from tests.support.databases import create_sqlite
from tests.support.s3_servers import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration
BATCHES = 60


def start_job(database: Database) -> JobRow:
    with database.transaction() as session:
        return rows.running_training(session)


def write_batch(database: Database, job: JobRow, number: int) -> None:
    """Five entries of all kinds in one transaction, one of them a repetition that is dropped."""
    point = MetricsLine(series="train", step=number, tokens=number, values={"loss": 1.0})
    lines = [LogLine(line=f"line {number}"), point, NoticeLine(message="x"), point,
             LogLine(line="y")]  # fmt: skip
    with database.transaction() as session:
        record(session, job.id, job.token, lines)


def finish_job(database: Database, job: JobRow) -> int:
    """Let the job succeed; return the number of its last entry."""
    with database.transaction() as session:
        rows.commit(session, job, BATCHES, final=True)
        return succeed(session, job.id, job.token).seq


@contextmanager
def writing(database: Database, job: JobRow, turns: threading.Semaphore) -> Iterator[list[int]]:
    """A thread that writes a batch each turn and ends the job; yields the last number, once."""
    last: list[int] = []

    def work() -> None:
        for number in range(1, BATCHES + 1):
            turns.acquire()
            write_batch(database, job, number)
        last.append(finish_job(database, job))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield last
    finally:
        turns.release(BATCHES)
        thread.join()


@contextmanager
def stream(server_url: str, job_id: str, after: int) -> Iterator[Iterator[ServerSentEvent]]:
    headers = {**HEADERS, "Last-Event-ID": str(after)}
    path = f"{server_url}/v1/jobs/{job_id}/events/stream"
    with httpx.stream("GET", path, headers=headers, timeout=30.0, trust_env=False) as response:
        assert response.status_code == 200
        yield EventSource(response).iter_sse()


def existing_seqs(database: Database, job_id: str) -> list[int]:
    with database.reading() as session:
        return [e.seq for e in read_stream(session, job_id, after=0, limit=10_000)]


def test_no_entry_is_missed_or_repeated_over_broken_connections(tmp_path: Path) -> None:
    create_sqlite(tmp_path / "ryangpt.db")
    with running_api(tmp_path) as server:
        database = Database(server.database_url)
        job = start_job(database)
        seen: list[int] = []
        done = False
        connections = 0
        turns = threading.Semaphore(2)
        with writing(database, job, turns):
            while not done:
                connections += 1
                with stream(server.url, job.id, seen[-1] if seen else 0) as events:
                    for count, event in enumerate(events, start=1):
                        if event.event == "done":
                            done = True
                            break
                        assert int(event.id) == json.loads(event.data)["seq"]
                        seen.append(int(event.id))
                        turns.release()
                        if count == 7:
                            break  # leave without a word
        assert connections > 20
        assert seen == existing_seqs(database, job.id)
        assert len(seen) == len(set(seen)) > 4 * BATCHES
        database.close()


def test_a_killed_server_loses_nothing(tmp_path: Path) -> None:
    create_sqlite(tmp_path / "ryangpt.db")
    port = free_port()
    database = Database(f"sqlite:///{tmp_path / 'ryangpt.db'}")
    job = start_job(database)
    seen: list[int] = []
    with running_api(tmp_path, port=port) as server:
        write_batch(database, job, 1)
        with stream(server.url, job.id, 0) as events:
            for _ in existing_seqs(database, job.id):
                seen.append(int(next(events).id))
            server.process.kill()
            with pytest.raises(httpx.TransportError):
                next(events)
    write_batch(database, job, 2)
    last = finish_job(database, job)
    with running_api(tmp_path, port=port) as server, stream(server.url, job.id, seen[-1]) as events:
        rest = list(events)
    assert [event.event for event in rest][-1] == "done"
    seen += [int(event.id) for event in rest[:-1]]
    assert seen == existing_seqs(database, job.id)
    assert seen[-1] == last
    database.close()


def test_a_stopping_server_ends_its_streams_and_then_itself(tmp_path: Path) -> None:
    create_sqlite(tmp_path / "ryangpt.db")
    with running_api(tmp_path) as server:
        database = Database(server.database_url)
        job = start_job(database)
        write_batch(database, job, 1)
        with stream(server.url, job.id, 0) as events:
            first = next(events)
            server.process.send_signal(signal.SIGTERM)
            rest = list(events)
        assert [first.id, *(event.id for event in rest)] == [
            str(seq) for seq in existing_seqs(database, job.id)
        ]
        assert server.process.wait(timeout=30) == 0
        assert "Traceback" not in server.log.read_text()
        with database.reading() as session:
            leader = find_leader(session, LEADER_NAME)
        assert leader is not None
        assert leader.owner == ""  # the lead is handed over
        database.close()


def open_streams(server: ApiServer) -> float:
    text = httpx.get(f"{server.url}/metrics", headers=HEADERS, trust_env=False).text
    line = next(x for x in text.splitlines() if x.startswith("ryangpt_event_streams "))
    return float(line.split()[1])


def test_a_stream_ends_when_its_client_leaves(tmp_path: Path) -> None:
    create_sqlite(tmp_path / "ryangpt.db")
    with running_api(tmp_path) as server:
        database = Database(server.database_url)
        job = start_job(database)
        with stream(server.url, job.id, 0) as events:
            next(events)
            assert open_streams(server) == 1
        wait_until(lambda: open_streams(server) == 0, "the hub forgets the client")
        database.close()
