"""Whatever is wrong with a submission is answered with its place, and nothing is written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import func, select
from starlette.testclient import TestClient

from shared.base.ids import IdPrefix, new_id
from shared.db.session import Database
from shared.db.tables import Base
from tests.support import rows

TOKENS = new_id(IdPrefix.DATASET)
CHECKPOINT = new_id(IdPrefix.CHECKPOINT)


def train(**changes: Any) -> dict[str, Any]:
    return {"kind": "train", "spec": {"model": "demo", "tokens": TOKENS, **changes}}


def row_counts(database: Database) -> dict[str, int]:
    """Rows by table, but for the leader's lease, which lives on its own."""
    tables = [table for table in Base.metadata.sorted_tables if table.name != "leaders"]
    with database.reading() as session:
        return {t.name: session.scalar(select(func.count()).select_from(t)) or 0 for t in tables}


CASES: list[tuple[str, Any, str, str]] = [
    ("unknown kind", {"kind": "trian", "spec": {}}, "/kind", "'trian' is none of ingest, tokenize, "
     "train, finetune, evaluate, export, import; did you mean 'train'?"),
    ("no kind", {"spec": {}}, "/kind", "this field is required"),
    ("no spec", {"kind": "train"}, "/spec", "this field is required"),
    ("no tokens", {"kind": "train", "spec": {"model": "m"}}, "/spec/tokens",
     "this field is required"),
    ("unknown field", train(learning_rate=1), "/spec/learning_rate",
     "there is no field 'learning_rate' here"),
    ("unknown outer field", {**train(), "colour": "red"}, "/colour",
     "there is no field 'colour' here"),
    ("head_dim 80", train(num_heads=4), "/spec/num_heads",
     "d_model / num_heads is 80; it must be one of 32, 64, 128"),
    ("uneven heads", train(num_heads=7), "/spec/num_heads",
     "d_model 320 is not a multiple of num_heads 7"),
    ("head_dim by width alone", train(d_model=512), "/spec/num_heads",
     "d_model 512 is not a multiple of num_heads 5"),
    ("negative layers", train(num_layers=-1), "/spec/num_layers",
     "must be greater than or equal to 1"),
    ("huge context", train(context_length=10**12), "/spec/context_length",
     "must be less than or equal to 131072"),
    ("beyond any integer", train(d_ff=10**400), "/spec/d_ff",
     "must be less than or equal to 65536"),
    ("vocabulary too large", train(vocab_size=65_537), "/spec/vocab_size",
     "must be less than or equal to 65536"),
    ("vocabulary too small", train(vocab_size=258), "/spec/vocab_size",
     "must be greater than or equal to 259"),
    ("no batch", train(batch_size=0), "/spec/batch_size",
     "batch_size must lie in [1, 65536], got 0"),
    ("word for a number", train(max_steps="many"), "/spec/max_steps",
     "must be a valid integer, unable to parse string as an integer or: must be 'auto'"),
    ("steps and epochs", train(max_steps=5, epochs=1), "/spec/max_steps",
     "give max_steps or epochs, not both"),
    ("min_lr above lr", train(min_lr=0.5), "/spec/min_lr", "min_lr 0.5 is above lr 0.0006"),
    ("path for an id", train(tokens="../../etc/passwd"), "/spec/tokens", ""),
    ("path for a name", train(model="../../x"), "/spec/model", ""),
    ("half a reference", train(tokens={"job": "a"}), "/spec/tokens/output",
     "this field is required"),
    ("priority", {**train(), "priority": 101}, "/priority", "must be less than or equal to 100"),
    ("NUL in a name", {**train(), "name": "a\0b"}, "/name", ""),
    ("lone surrogate for a field", train(**{"\ud800": 1}), "/spec", ""),
    ("slash in a field", train(**{"a/b~c": 1}), "/spec/a~1b~0c", "there is no field 'a/b~c' here"),
    ("lone surrogate", {**train(), "name": "\ud800"}, "/name", ""),
    ("a list", [], "", "this must be a JSON object"),
    ("a list for a spec", {"kind": "train", "spec": []}, "/spec", "this must be a JSON object"),
    ("tokenizer vocabulary", {"kind": "tokenize", "spec": {"dataset": TOKENS, "vocab_size": 258}},
     "/spec/vocab_size", "must be greater than or equal to 259"),
    ("validation share", {"kind": "tokenize", "spec": {"dataset": TOKENS,
     "validation_fraction": -0.1}}, "/spec/validation_fraction",
     "must be greater than or equal to 0"),
    ("upload missing", {"kind": "ingest", "spec": {"source": "text"}}, "/spec/upload",
     "source 'text' needs an upload"),
]  # fmt: skip


@pytest.mark.parametrize("validate_only", [False, True])
@pytest.mark.parametrize(("body", "pointer", "detail"), [c[1:] for c in CASES],
                         ids=[c[0] for c in CASES])  # fmt: skip
def test_a_job_that_can_never_work_is_refused(
    client: TestClient,
    database: Database,
    body: Any,
    pointer: str,
    detail: str,
    validate_only: bool,
) -> None:
    response = client.post(
        "/v1/jobs",
        params={"validate_only": validate_only},
        content=json.dumps(body),
        headers={"Content-Type": "application/json"},
    )
    problem = response.json()
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["code"] == "invalid_input"
    assert problem["request_id"] == response.headers["x-request-id"]
    assert [item["pointer"] for item in problem["errors"]][:1] == [pointer]
    if detail:
        assert problem["errors"][0]["detail"] == detail
    assert set(row_counts(database).values()) == {0}


def test_every_wrong_field_is_named_at_once(client: TestClient) -> None:
    body = train(num_layers=-1, learning_rate=1, lr=[])
    errors = client.post("/v1/jobs", json=body).json()["errors"]
    assert [item["pointer"] for item in errors] == [
        "/spec/lr",
        "/spec/num_layers",
        "/spec/learning_rate",
    ]


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ('{"kind": ', "the body is not JSON: Expecting value at character 9"),
        ("", "this field is required"),
        ('{"kind": "train", "spec": {"rope_theta": Infinity}}', None),
    ],
)
def test_a_body_that_is_no_json_is_refused(
    client: TestClient, database: Database, text: str, detail: str | None
) -> None:
    headers = {"Content-Type": "application/json"}
    response = client.post("/v1/jobs", content=text, headers=headers)
    assert response.status_code == 422
    if detail is not None:
        assert response.json()["errors"][0] == {"pointer": "", "detail": detail}
    assert set(row_counts(database).values()) == {0}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_know_are_refused(client: TestClient, number: str) -> None:
    spec = f'{{"model": "m", "tokens": "{TOKENS}", "rope_theta": {number}}}'
    response = client.post(
        "/v1/jobs",
        content=f'{{"kind": "train", "spec": {spec}}}',
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code == 422
    assert [item["pointer"] for item in response.json()["errors"]] == ["/spec/rope_theta"]


def test_json_under_another_name_is_explained(client: TestClient) -> None:
    response = client.post(
        "/v1/jobs", content=b"kind=train", headers={"Content-Type": "text/plain"}
    )
    assert response.status_code == 422
    expected = "the body must be a JSON object, sent as Content-Type: application/json"
    assert response.json()["errors"] == [{"pointer": "", "detail": expected}]


def test_an_input_that_does_not_exist_is_named(client: TestClient, database: Database) -> None:
    response = client.post("/v1/jobs", json=train())
    assert (response.status_code, response.json()["code"]) == (422, "unknown_input")
    assert response.json()["errors"][0]["pointer"] == "/spec/tokens"
    assert TOKENS in response.json()["detail"]
    assert set(row_counts(database).values()) == {0}


def test_an_upload_that_is_still_written_is_a_conflict(
    client: TestClient, database: Database
) -> None:
    upload = client.post("/v1/uploads", json={"filename": "a.txt"}).json()["id"]
    body = {"kind": "ingest", "spec": {"source": "text", "upload": upload}}
    response = client.post("/v1/jobs", json=body)
    assert response.status_code == 409
    assert response.json()["errors"][0]["pointer"] == "/spec/upload"
    assert row_counts(database)["jobs"] == 0


def test_another_tokenizer_than_the_base_model_s_is_refused(
    client: TestClient, database: Database
) -> None:
    with database.transaction() as session:
        base = rows.base_model(session)
        other = rows.add_tokens(session, format="dialogues", tokenizer_sha256=rows.SHA_B)
        checkpoint = base.outputs["checkpoint"]
    before = row_counts(database)
    spec = {"model": "chat", "checkpoint": checkpoint, "tokens": other}
    response = client.post("/v1/jobs", json={"kind": "finetune", "spec": spec})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/spec/tokens"
    assert row_counts(database) == before


def test_a_pipeline_s_mistake_has_its_whole_path(client: TestClient, database: Database) -> None:
    jobs = {
        "train": train(num_layers=0),
        "late": {"kind": "tokenize", "spec": {"dataset": {"job": "nowhere", "output": "dataset"}}},
    }
    response = client.post("/v1/pipelines", json={"name": "p", "jobs": jobs})
    assert response.status_code == 422
    assert [e["pointer"] for e in response.json()["errors"]] == ["/jobs/train/spec/num_layers"]
    jobs["train"] = train()
    response = client.post("/v1/pipelines", json={"name": "p", "jobs": jobs})
    assert [e["pointer"] for e in response.json()["errors"]] == ["/jobs/late/spec/dataset/job"]
    assert set(row_counts(database).values()) == {0}


def test_the_second_job_s_missing_input_rolls_the_first_back(
    client: TestClient, database: Database
) -> None:
    jobs = {"data": rows.INGEST, "train": train()}
    response = client.post("/v1/pipelines", json={"name": "p", "jobs": jobs})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/jobs/train/spec/tokens"
    assert set(row_counts(database).values()) == {0}


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ("/v1/jobs?limit=0", "/query/limit"),
        ("/v1/jobs?limit=10000", "/query/limit"),
        ("/v1/jobs?state=done", "/query/state"),
        ("/v1/jobs?after=x%00y", "/query/after"),
        (f"/v1/jobs/{new_id(IdPrefix.JOB)}/events?after=-1", "/query/after"),
        (f"/v1/jobs/{new_id(IdPrefix.JOB)}/events?after=9999999999999999999", "/query/after"),
        (f"/v1/jobs/{new_id(IdPrefix.JOB)}/metrics?max_points=0", "/query/max_points"),
    ],
)
def test_a_bad_parameter_is_named(client: TestClient, path: str, pointer: str) -> None:
    response = client.get(path)
    assert response.status_code == 422
    assert [item["pointer"] for item in response.json()["errors"]] == [pointer]


JOB = new_id(IdPrefix.JOB)
UNKNOWN = [
    *(f"/v1/jobs/{JOB}{rest}" for rest in ("", "/events", "/events/stream", "/metrics", "/logs",
      "/checkpoints", "/report", "/plot.svg")),
    "/v1/jobs/x", "/v1/jobs/%00", "/v1/jobs/..%2f..%2fetc", f"/v1/jobs/{new_id(IdPrefix.UPLOAD)}",
    f"/v1/pipelines/{new_id(IdPrefix.PIPELINE)}", f"/v1/uploads/{new_id(IdPrefix.UPLOAD)}",
    f"/v1/datasets/{TOKENS}", f"/v1/datasets/{TOKENS}/preview", f"/v1/tokenizers/{TOKENS}",
    f"/v1/exports/{JOB}", f"/v1/artifacts/{TOKENS}/files/x", f"/v1/artifacts/{CHECKPOINT}/files/x",
    f"/v1/checkpoints/{CHECKPOINT}", "/v1/models/none", "/v1/models/%00", "/v1/models/A",
    "/no/such/path", "/v1/jobs/",
]  # fmt: skip


@pytest.mark.parametrize("path", UNKNOWN)
def test_what_is_not_there_is_a_404_problem(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume", "retry"])
def test_an_unknown_job_cannot_be_steered(client: TestClient, verb: str) -> None:
    assert client.post(f"/v1/jobs/{JOB}/{verb}").status_code == 404


def test_a_method_that_a_path_has_not_is_a_405_problem(client: TestClient) -> None:
    response = client.delete("/v1/jobs")
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert "POST" in response.headers["allow"]


@pytest.mark.parametrize("version", [0, -1, 2**31, "x"])
def test_a_version_that_no_model_has_is_refused(client: TestClient, version: Any) -> None:
    response = client.post("/v1/models/demo/pin", json={"version": version})
    assert response.status_code == 422
    assert [item["pointer"] for item in response.json()["errors"]] == ["/version"]
