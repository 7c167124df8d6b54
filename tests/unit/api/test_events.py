"""What a job tells over HTTP: pages of events, curves, log, report, plot, and its stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from services.api import events
from shared.contracts.progress import LogLine, MetricsLine, NoticeLine, PhaseLine, SampleLine
from shared.contracts.views import CheckpointView
from shared.db.session import Database
from shared.db.tables import JobRow
from shared.jobs.life.lifecycle import succeed
from shared.jobs.life.recorder import record
from shared.storage.base import ObjectStore
from shared.storage.keys import report_key
from tests.support import rows


@pytest.fixture
def trained(database: Database) -> JobRow:
    """A finished training run that has told something of every kind."""
    with database.transaction() as session:
        job = rows.running_training(session)
        losses = [
            MetricsLine(series="train", step=step, tokens=step * 64, values={"loss": 9.0 / step})
            for step in range(1, 11)
        ]
        held_out = {"validation_loss": 1.5, "bits_per_byte": 1.25, "validation_bytes": 4096.0}
        record(session, job.id, job.token, [PhaseLine(phase="training"), *losses])
        record(
            session,
            job.id,
            job.token,
            [
                LogLine(line="<script>alert(1)</script> \x1b[31m"),
                MetricsLine(series="validation", step=10, tokens=640, values=held_out),
                SampleLine(step=5, prompt="Hello", text="early"),
                SampleLine(step=10, prompt="Hello", text="```\n| late"),
                NoticeLine(message="torch.compile failed"),
            ],
        )
        rows.commit(session, job, 10, final=True)
        return succeed(session, job.id, job.token)


def test_events_are_paged_in_order_without_gaps(client: TestClient, trained: JobRow) -> None:
    seqs: list[int] = []
    after, more = 0, True
    while more:
        params = {"after": after, "limit": 4}
        page = client.get(f"/v1/jobs/{trained.id}/events", params=params).json()
        seqs += [event["seq"] for event in page["data"]]
        assert page["next_after"] == (str(seqs[-1]) if page["has_more"] else None)
        after, more = seqs[-1], page["has_more"]
    assert seqs == list(range(1, trained.seq + 1))


def test_events_have_types_and_data(client: TestClient, trained: JobRow) -> None:
    entries = client.get(f"/v1/jobs/{trained.id}/events").json()["data"]
    types = [entry["type"] for entry in entries]
    assert types[:3] == ["state", "state", "phase"]
    assert types.count("metrics") == 11
    assert types[-1] == "state"
    assert entries[-1]["data"]["state"] == "succeeded"
    first = next(entry for entry in entries if entry["type"] == "metrics")
    assert first["data"] == {"series": "train", "step": 1, "tokens": 64, "values": {"loss": 9.0}}


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("after", [0, 5, 10_000])
def test_the_stream_of_an_ended_job_is_its_rest_and_done(
    client: TestClient, trained: JobRow, header: bool, after: int
) -> None:
    path = f"/v1/jobs/{trained.id}/events/stream"
    if header:
        response = client.get(f"{path}?after=1", headers={"Last-Event-ID": str(after)})
    else:
        response = client.get(path, params={"after": after})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
    first_line, _, text = response.text.partition("\n")
    assert first_line == "retry: 3000"
    blocks = text.strip().split("\n\n")
    *entries, end = [dict(line.split(": ", 1) for line in b.split("\n")) for b in blocks]
    assert [int(entry["id"]) for entry in entries] == list(range(after + 1, trained.seq + 1))
    assert [json.loads(entry["data"])["seq"] for entry in entries] == [
        int(entry["id"]) for entry in entries
    ]
    assert end == {"event": "done", "data": '{"state":"succeeded"}'}


def test_curves_are_thinned_on_request(client: TestClient, trained: JobRow) -> None:
    path = f"/v1/jobs/{trained.id}/metrics"
    whole = client.get(path).json()["series"]
    assert [point["step"] for point in whole["train"]] == list(range(1, 11))
    assert whole["validation"][0]["values"]["bits_per_byte"] == 1.25
    thin = client.get(path, params={"max_points": 4}).json()["series"]["train"]
    assert len(thin) <= 4
    assert (thin[0]["step"], thin[-1]["step"]) == (1, 10)


def test_the_log_is_plain_text_that_no_browser_interprets(
    client: TestClient, trained: JobRow
) -> None:
    response = client.get(f"/v1/jobs/{trained.id}/logs")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.text == "<script>alert(1)</script> \x1b[31m\n"
    rest = client.get(
        f"/v1/jobs/{trained.id}/logs", params={"after": response.headers["x-next-after"]}
    )
    assert rest.text == ""
    assert rest.headers["x-next-after"] == response.headers["x-next-after"]


def test_checkpoints_are_listed(client: TestClient, trained: JobRow) -> None:
    page = client.get(f"/v1/jobs/{trained.id}/checkpoints").json()
    views = [CheckpointView.model_validate(item) for item in page["data"]]
    assert [(view.step, view.final, view.versions) for view in views] == [(10, True, ["demo:1"])]


def test_the_report_is_live_until_it_is_stored(
    client: TestClient, trained: JobRow, store: ObjectStore
) -> None:
    live = client.get(f"/v1/jobs/{trained.id}/report")
    assert live.headers["content-type"] == "text/markdown; charset=utf-8"
    assert "| Final training loss | 0.9000 | 3.44 |" in live.text
    store.put_bytes(report_key(trained.id), b"# As it was at the end\n")
    assert client.get(f"/v1/jobs/{trained.id}/report").text == "# As it was at the end\n"


def test_a_running_job_s_report_is_never_a_stored_one(
    client: TestClient, database: Database, store: ObjectStore
) -> None:
    with database.transaction() as session:
        job = rows.running_training(session)
    store.put_bytes(report_key(job.id), b"of an earlier attempt")
    assert client.get(f"/v1/jobs/{job.id}/report").text.startswith("# Pretraining: train\n")


def test_a_client_that_reads_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "SEND_SECONDS", 0.01)
    ended: list[str] = []

    async def endless() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b": x\n"
        finally:
            ended.append("events")

    async def stuck(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def scenario() -> None:
        async with asyncio.timeout(10):
            await events.EventStream(endless()).stream_response(stuck)

    asyncio.run(scenario())
    assert ended == ["events"]


def test_only_training_has_a_report(client: TestClient) -> None:
    job = client.post("/v1/jobs", json=rows.INGEST).json()["id"]
    response = client.get(f"/v1/jobs/{job}/report")
    assert (response.status_code, response.json()["code"]) == (409, "conflict")


def test_the_plot_is_an_svg_that_runs_nothing(client: TestClient, trained: JobRow) -> None:
    response = client.get(f"/v1/jobs/{trained.id}/plot.svg")
    assert response.headers["content-type"] == "image/svg+xml"
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert response.headers["content-security-policy"] == policy
    assert response.text.startswith("<svg ")
    assert "training loss" in response.text
