"""Index, probes, metrics, schemas, workers and the committed OpenAPI document."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from services.api.context import Context
from services.api.openapi import render_openapi
from shared.base.errors import UnavailableError
from shared.base.version import package_version
from shared.contracts.names import OUTPUTS_OF_KIND, QUEUE_OF_KIND, JobKind, Queue
from shared.db.session import Database
from shared.jobs.life.presence import worker_heartbeat
from tests.support import rows

SNAPSHOT = Path(__file__).parents[3] / "docs" / "openapi" / "api.json"


def test_the_index_links_to_what_is_there(client: TestClient) -> None:
    index = client.get("/v1").json()
    assert (index["name"], index["version"]) == ("Ryan-GPT", package_version())
    links = {name: link for name, link in index["links"].items() if name != "inference"}
    assert {client.get(link).status_code for link in links.values()} == {200}


def test_the_probes_need_no_token(stranger: TestClient) -> None:
    assert stranger.get("/health/live").json() == {"status": "ok"}
    ready = stranger.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json() == {
        "status": "ready",
        "checks": {"database": "ok", "schema": "ok", "store": "ok", "broker": "unavailable"},
    }


def test_another_schema_is_not_ready(client: TestClient, database: Database) -> None:
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'from-the-future'"))
    response = client.get("/health/ready")
    assert (response.status_code, response.json()["status"]) == (503, "not ready")
    assert response.json()["checks"]["schema"] == "unavailable"
    assert "future" not in response.text


def test_a_store_that_is_away_is_not_ready(
    client: TestClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise UnavailableError("s3.internal:9000 refused.")

    monkeypatch.setattr(context.store, "check", away)
    response = client.get("/health/ready")
    assert (response.status_code, response.json()["checks"]["store"]) == (503, "unavailable")
    assert "s3.internal" not in response.text


def samples(client: TestClient) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")
    }


def test_metrics_count_jobs_workers_and_requests(client: TestClient, database: Database) -> None:
    for _ in range(3):
        client.post("/v1/jobs", json=rows.INGEST)
    client.get(f"/v1/jobs/{client.get('/v1/jobs').json()['data'][0]['id']}")
    client.get("/v1/jobs/x")
    client.get("/v1/jobs", headers={"Authorization": "Bearer wrong"})
    with database.transaction() as session:
        worker_heartbeat(session, "w1", slots={Queue.TOKENIZER: 2}, running=[])
    found = samples(client)
    assert found['ryangpt_jobs{queue="tokenizer",state="queued"}'] == 3
    assert found['ryangpt_jobs{queue="trainer-gpu",state="running"}'] == 0
    assert found['ryangpt_worker_slots{queue="tokenizer",worker="w1"}'] == 2
    requests = "ryangpt_http_requests_total"
    assert found[f'{requests}{{method="POST",route="/v1/jobs",status="201"}}'] == 3
    assert found[f'{requests}{{method="GET",route="/v1/jobs/{{job_id}}",status="200"}}'] == 1
    assert found[f'{requests}{{method="GET",route="/v1/jobs/{{job_id}}",status="404"}}'] == 1
    assert found[f'{requests}{{method="any",route="unmatched",status="401"}}'] == 1
    assert found["ryangpt_event_streams"] == 0
    seconds = "ryangpt_http_response_start_seconds_count"
    assert found[f'{seconds}{{method="POST",route="/v1/jobs",status="201"}}'] == 3


def test_workers_are_shown(client: TestClient, database: Database) -> None:
    with database.transaction() as session:
        worker_heartbeat(session, "w1", slots={Queue.TRAINER_GPU: 1}, running=["job_1"])
    (worker,) = client.get("/v1/workers").json()["data"]
    assert (worker["id"], worker["queues"], worker["alive"]) == ("w1", ["trainer-gpu"], True)
    assert (worker["slots"], worker["running"]) == ({"trainer-gpu": 1}, ["job_1"])


def test_every_kind_has_a_schema(client: TestClient) -> None:
    schemas = client.get("/v1/schemas").json()
    assert set(schemas) == set(JobKind)
    for kind, schema in schemas.items():
        assert schema["properties"]["kind"]["const"] == kind
        assert set(schema["required"]) == {"kind", "spec"}
        assert schema["additionalProperties"] is False
        assert schema["x-outputs"] == sorted(OUTPUTS_OF_KIND[JobKind(kind)])
        assert schema["x-queue"] == QUEUE_OF_KIND[JobKind(kind)]
    described = schemas["train"]["$defs"]["TrainSpec"]["properties"]
    assert all(field.get("description") for field in described.values())


def test_the_committed_openapi_document_is_current() -> None:
    hint = "run: python -m services.api.openapi > docs/openapi/api.json"
    assert SNAPSHOT.read_text("utf-8") == render_openapi(), hint


def test_the_openapi_document_speaks_of_our_errors_only(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert "HTTPValidationError" not in str(document)
    operations = [op for path in document["paths"].values() for op in path.values()]
    default = {"$ref": "#/components/schemas/Problem"}
    for operation in operations:
        content = operation["responses"]["default"]["content"]
        assert content == {"application/problem+json": {"schema": default}}
        assert operation["description"]
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))
    references = set(re.findall(r"'#/components/schemas/(\w+)'", str(document)))
    assert references <= set(document["components"]["schemas"])
