"""What jobs put out: lists, previews, downloads, models."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from shared.base.clock import utc_now
from shared.contracts.manifest import FileEntry, Manifest
from shared.contracts.names import ArtifactType, FileRole
from shared.db.session import Database
from shared.db.tables import JobRow
from shared.jobs.life.lifecycle import succeed
from shared.jobs.life.outputs import FinishedOutput
from shared.storage.base import ObjectStore
from tests.support import rows

PART_0 = b"".join(json.dumps({"text": f"text {i}"}).encode() + b"\n" for i in range(3))
PART_1 = b"".join(json.dumps({"text": f"text {i}"}).encode() + b"\n" for i in range(3, 6))


def add_dataset(database: Database, store: ObjectStore, files: dict[str, bytes]) -> str:
    """A dataset whose files are really in the store."""
    with database.transaction() as session:
        job = rows.claim_job(session, rows.submit(session, {**rows.INGEST, "fresh": True}))
        output = rows.finished_output(job, rows.dataset_meta(documents=6))
        manifest = _with_files(output.manifest, job, files)
        for path, content in files.items():
            store.put_bytes(f"{output.prefix}{path}", content)
        finished = FinishedOutput(
            output=ArtifactType.DATASET, name="docs", prefix=output.prefix, manifest=manifest
        )
        done = succeed(session, job.id, job.token, outputs=[finished])
        return done.outputs["dataset"]


def _with_files(manifest: Manifest, job: JobRow, files: dict[str, bytes]) -> Manifest:
    entries = tuple(
        FileEntry(
            path=path,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            role=FileRole.DATA,
        )
        for path, content in files.items()
    )
    return manifest.model_copy(update={"files": entries, "job_id": job.id, "created_at": utc_now()})


def test_a_preview_shows_the_first_rows_across_files(
    client: TestClient, database: Database, store: ObjectStore
) -> None:
    files = {"part-00000.jsonl": PART_0, "part-00001.jsonl": PART_1}
    dataset = add_dataset(database, store, files)
    for n, expected in ((2, 2), (4, 4), (100, 6)):
        preview = client.get(f"/v1/datasets/{dataset}/preview", params={"n": n}).json()
        assert preview["format"] == "documents"
        assert [row["text"] for row in preview["rows"]] == [f"text {i}" for i in range(expected)]


def test_a_preview_of_very_long_rows_stops_reading(
    client: TestClient, database: Database, store: ObjectStore
) -> None:
    long = json.dumps({"text": "x" * (3 << 20)}).encode() + b"\n"
    dataset = add_dataset(database, store, {"part-00000.jsonl": long * 3})
    preview = client.get(f"/v1/datasets/{dataset}/preview", params={"n": 3}).json()
    assert [len(row["text"]) for row in preview["rows"]] == [3 << 20]


def test_tokens_have_no_preview(client: TestClient, database: Database) -> None:
    with database.transaction() as session:
        tokens = rows.add_tokens(session)
    response = client.get(f"/v1/datasets/{tokens}/preview")
    assert (response.status_code, response.json()["code"]) == (409, "conflict")


def test_each_kind_of_artifact_has_its_own_list(client: TestClient, database: Database) -> None:
    with database.transaction() as session:
        job = rows.base_model(session)
        export = rows.submit(
            session, {"kind": "export", "spec": {"checkpoint": job.outputs["checkpoint"]}}
        )
        rows.finish(session, export, rows.export_meta(job.outputs["checkpoint"]))
    types = {
        name: [item["type"] for item in client.get(f"/v1/{name}").json()["data"]]
        for name in ("datasets", "tokenizers", "exports")
    }
    assert types == {
        "datasets": ["tokens", "dataset"],
        "tokenizers": ["tokenizer"],
        "exports": ["export"],
    }
    tokenizer = client.get("/v1/tokenizers").json()["data"][0]
    assert client.get(f"/v1/tokenizers/{tokenizer['id']}").json() == tokenizer
    assert client.get(f"/v1/datasets/{tokenizer['id']}").status_code == 404


def test_a_file_is_downloaded_as_its_manifest_says(
    client: TestClient, database: Database, store: ObjectStore
) -> None:
    dataset = add_dataset(database, store, {"part-00000.jsonl": PART_0})
    response = client.get(f"/v1/artifacts/{dataset}/files/part-00000.jsonl")
    assert (response.status_code, response.content) == (200, PART_0)
    assert response.headers["content-length"] == str(len(PART_0))
    expected = "attachment; filename*=utf-8''part-00000.jsonl"
    assert response.headers["content-disposition"] == expected
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["etag"] == f'"{hashlib.sha256(PART_0).hexdigest()}"'


@pytest.mark.parametrize(
    "path",
    ["manifest.json", "../ryangpt.db", "..%2f..%2fryangpt.db", "%2e%2e/x", "/etc/passwd", "a%00b",
     "part-00000.jsonl/", "..\\x", ""],
)  # fmt: skip
def test_a_path_that_the_manifest_does_not_list_is_not_there(
    client: TestClient, database: Database, store: ObjectStore, path: str
) -> None:
    dataset = add_dataset(database, store, {"part-00000.jsonl": PART_0})
    response = client.get(f"/v1/artifacts/{dataset}/files/{path}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_an_object_that_is_gone_is_an_error_and_no_half_answer(
    client: TestClient, database: Database, store: ObjectStore
) -> None:
    dataset = add_dataset(database, store, {"part-00000.jsonl": PART_0})
    store.delete(list(store.list_keys("jobs/")))
    assert client.get(f"/v1/artifacts/{dataset}/files/part-00000.jsonl").status_code == 404


def test_models_are_published_pinned_and_shown(client: TestClient, database: Database) -> None:
    with database.transaction() as session:
        first = rows.base_model(session, model="demo")
        second = rows.base_model(session, model="demo", seed=2)
    ids = [job.outputs["checkpoint"] for job in (first, second)]
    model = client.get("/v1/models/demo").json()
    assert [version["checkpoint_id"] for version in model["versions"]] == ids[::-1]
    assert (model["served_version"], model["pinned_version"]) == (2, None)
    pinned = client.post("/v1/models/demo/pin", json={"version": 1}).json()
    assert pinned["pinned_version"] == 1
    assert (
        client.post("/v1/models/demo/pin", json={"version": None}).json()["pinned_version"] is None
    )
    other = client.post("/v1/models/other/publish", json={"checkpoint_id": ids[0]}).json()
    assert (other["name"], other["served_version"]) == ("other", 1)
    assert [m["name"] for m in client.get("/v1/models").json()["data"]] == ["demo", "other"]
    checkpoint = client.get(f"/v1/checkpoints/{ids[0]}").json()
    assert checkpoint["versions"] == ["demo:1", "other:1"]
    assert checkpoint["num_parameters"] == 17_888
    assert client.get(f"/v1/jobs/{first.id}/checkpoints").json()["data"] == [checkpoint]


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({"version": 9}, 404, "/version"),
        ({}, 422, "/version"),
        ({"version": 1, "x": 1}, 422, "/x"),
    ],
)
def test_a_pin_that_cannot_be_is_refused(
    client: TestClient, database: Database, body: dict[str, Any], status: int, pointer: str
) -> None:
    with database.transaction() as session:
        rows.base_model(session, model="demo")
    response = client.post("/v1/models/demo/pin", json=body)
    assert response.status_code == status
    assert response.json()["errors"][0]["pointer"] == pointer
