"""Submitting, listing and steering jobs and pipelines over HTTP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import event
from starlette.testclient import TestClient

from shared.base.ids import IdPrefix, new_id
from shared.contracts.jobs import JobEstimate, JobView, PipelineEstimate, PipelineView
from shared.contracts.names import JobState
from shared.contracts.views import Page
from shared.db.session import Database
from tests.support import rows

REFERENCE_TO_TOKENS = {"job": "tok", "output": "tokens"}
PIPELINE: dict[str, Any] = {
    "name": "all",
    "jobs": {
        "data": rows.INGEST,
        "tok": {"kind": "tokenize", "spec": {"dataset": {"job": "data", "output": "dataset"}}},
        "train": rows.train_document(REFERENCE_TO_TOKENS),
    },
}


def create(client: TestClient, body: Any = rows.INGEST, **headers: str) -> JobView:
    response = client.post("/v1/jobs", json=body, headers=headers)
    assert response.status_code == 201, response.text
    job = JobView.model_validate(response.json())
    assert response.headers["location"] == f"/v1/jobs/{job.id}"
    return job


def test_a_job_is_created_where_location_says(client: TestClient) -> None:
    job = create(client, {**rows.INGEST, "name": "my docs", "priority": 7})
    assert (job.state, job.name, job.priority) == (JobState.QUEUED, "my docs", 7)
    assert job.spec["max_document_chars"] == 20_000
    assert JobView.model_validate(client.get(f"/v1/jobs/{job.id}").json()) == job


def test_validate_only_estimates_and_writes_nothing(client: TestClient, database: Database) -> None:
    with database.transaction() as session:
        tokens = rows.add_tokens(session)
    before = client.get("/v1/jobs").json()
    body = rows.train_document(tokens, batch_size=4, gradient_accumulation_steps=2)
    response = client.post("/v1/jobs?validate_only=true", json=body)
    assert response.status_code == 200
    estimate = JobEstimate.model_validate(response.json())
    assert (estimate.num_parameters, estimate.tokens_per_step) == (17_888, 128)
    assert estimate.outputs == ("checkpoint",)
    assert client.get("/v1/jobs").json() == before


def test_lists_are_paged_newest_first_and_filtered(client: TestClient) -> None:
    ids = [create(client, {**rows.INGEST, "name": str(number)}).id for number in range(5)]
    client.post(f"/v1/jobs/{ids[0]}/cancel")
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = Page[JobView].model_validate(
            client.get("/v1/jobs", params={"limit": 2, **after}).json()
        )
        seen += [job.id for job in page.data]
        if not page.has_more:
            break
        after = {"after": str(page.next_after)}
    assert seen == ids[::-1]
    cancelled = client.get("/v1/jobs?state=cancelled").json()["data"]
    assert [job["id"] for job in cancelled] == [ids[0]]
    assert client.get("/v1/jobs?kind=train").json()["data"] == []


def test_an_unchanged_job_costs_no_body(client: TestClient) -> None:
    job = create(client)
    first = client.get(f"/v1/jobs/{job.id}")
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    for sent in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = client.get(f"/v1/jobs/{job.id}", headers={"If-None-Match": sent})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    client.post(f"/v1/jobs/{job.id}/pause")
    changed = client.get(f"/v1/jobs/{job.id}", headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["state"]) == (200, "paused")


def test_a_job_is_paused_resumed_cancelled_and_tried_again(client: TestClient) -> None:
    job = create(client)
    for verb, state in (("pause", "paused"), ("pause", "paused"), ("resume", "queued"),
                        ("cancel", "cancelled"), ("cancel", "cancelled")):  # fmt: skip
        response = client.post(f"/v1/jobs/{job.id}/{verb}")
        assert (response.status_code, response.json()["state"]) == (202, state)
    refused = client.post(f"/v1/jobs/{job.id}/pause")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    again = client.post(f"/v1/jobs/{job.id}/retry")
    assert (again.status_code, again.json()["state"]) == (201, "queued")
    assert again.headers["location"] == f"/v1/jobs/{again.json()['id']}"
    assert again.json()["id"] != job.id


def test_a_pipeline_waits_for_its_own_jobs(client: TestClient) -> None:
    response = client.post("/v1/pipelines", json=PIPELINE)
    assert response.status_code == 201
    pipeline = PipelineView.model_validate(response.json())
    assert response.headers["location"] == f"/v1/pipelines/{pipeline.id}"
    states = {key: job.state for key, job in pipeline.jobs.items()}
    assert states == {"data": "queued", "tok": "waiting", "train": "waiting"}
    assert client.get(f"/v1/pipelines/{pipeline.id}").json() == response.json()
    assert client.get("/v1/pipelines").json()["data"] == [response.json()]
    own = client.get("/v1/jobs", params={"pipeline_id": pipeline.id}).json()["data"]
    assert {job["pipeline_key"] for job in own} == {"data", "tok", "train"}


def test_validating_a_pipeline_checks_all_of_it_and_writes_nothing(client: TestClient) -> None:
    response = client.post("/v1/pipelines?validate_only=true", json=PIPELINE)
    assert response.status_code == 200
    estimate = PipelineEstimate.model_validate(response.json())
    assert {key: job.kind for key, job in estimate.jobs.items()} == {
        "data": "ingest", "tok": "tokenize", "train": "train",
    }  # fmt: skip
    unknown = {**PIPELINE["jobs"]["tok"], "spec": {"dataset": new_id(IdPrefix.DATASET)}}
    refused = client.post(
        "/v1/pipelines?validate_only=true",
        json={**PIPELINE, "jobs": {**PIPELINE["jobs"], "tok": unknown}},
    )
    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_input")
    assert [one["pointer"] for one in refused.json()["errors"]] == ["/jobs/tok/spec/dataset"]
    assert client.get("/v1/jobs").json()["data"] == []
    assert client.get("/v1/pipelines").json()["data"] == []


@pytest.mark.parametrize(("path", "body"), [("/v1/jobs", rows.INGEST), ("/v1/pipelines", PIPELINE)])
def test_the_same_key_and_request_is_done_once(
    client: TestClient, path: str, body: dict[str, Any]
) -> None:
    headers = {"Idempotency-Key": "once-please"}
    first = client.post(path, json=body, headers=headers)
    client.post(f"/v1/jobs/{client.get('/v1/jobs').json()['data'][-1]['id']}/cancel")
    second = client.post(path, json=body, headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.json() == first.json()
    assert second.headers["location"] == first.headers["location"]
    assert len(client.get(path).json()["data"]) == 1


def test_the_same_key_from_many_clients_at_once_makes_one_job(client: TestClient) -> None:
    def send(_number: int) -> tuple[int, str]:
        headers = {"Idempotency-Key": "at-once"}
        response = client.post("/v1/jobs", json=rows.INGEST, headers=headers)
        return response.status_code, response.json()["id"]

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(send, range(16)))
    (job,) = client.get("/v1/jobs").json()["data"]
    assert answers == {(201, job["id"])}


def test_spelling_out_a_default_is_the_same_request(client: TestClient) -> None:
    first = create(client, rows.INGEST, **{"Idempotency-Key": "k"})
    assert create(client, {**rows.INGEST, "priority": 0}, **{"Idempotency-Key": "k"}) == first


def test_the_same_key_with_another_request_is_refused(client: TestClient) -> None:
    create(client, rows.INGEST, **{"Idempotency-Key": "k"})
    other = client.post("/v1/jobs", json={**rows.INGEST, "priority": 1},
                        headers={"Idempotency-Key": "k"})  # fmt: skip
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    elsewhere = client.post("/v1/pipelines", json=PIPELINE, headers={"Idempotency-Key": "k"})
    assert elsewhere.status_code == 422
    assert len(client.get("/v1/jobs").json()["data"]) == 1


def test_a_refused_request_leaves_its_key_free(client: TestClient) -> None:
    headers = {"Idempotency-Key": "k"}
    missing = {"kind": "tokenize", "spec": {"dataset": "ds_01M82BEFSZN7BB8CSXVY4C4HZP"}}
    assert client.post("/v1/jobs", json=missing, headers=headers).status_code == 422
    create(client, rows.INGEST, **headers)


@pytest.mark.parametrize("key", ["", "x" * 256, "with space"])
def test_a_key_that_cannot_be_kept_is_refused(client: TestClient, key: str) -> None:
    response = client.post("/v1/jobs", json=rows.INGEST, headers={"Idempotency-Key": key})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/header/Idempotency-Key"


def test_a_commit_that_fails_is_no_success(
    client: TestClient, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is given after the commit, so a client never holds an id that is not there."""

    def fail(_connection: object) -> None:
        raise OSError("the disk is gone")

    event.listen(database.engine, "commit", fail)
    try:
        response = client.post("/v1/jobs", json=rows.INGEST)
    finally:
        event.remove(database.engine, "commit", fail)
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "the disk is gone" not in response.text
    assert "the disk is gone" in caplog.text
    assert client.get("/v1/jobs").json()["data"] == []


def test_a_database_that_is_away_is_a_503_with_retry_after(
    app: FastAPI, client: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    monkeypatch.setattr(database, "engine", away.engine)
    monkeypatch.setattr(database, "_sessions", away._sessions)
    response = client.get("/v1/jobs")
    assert (response.status_code, response.json()["code"]) == (503, "database")
    assert int(response.headers["retry-after"]) >= 1
