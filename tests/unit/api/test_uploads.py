"""A file is usable when all of it is there, and never before."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from services.api.context import Context
from services.api.uploads import INCOMING_FOLDER, LEFTOVER_SECONDS, remove_leftovers
from shared.base.errors import UnavailableError
from shared.contracts.names import FailureCode
from shared.storage.base import ObjectStore
from shared.storage.keys import upload_key

CONTENT = b"once upon a time\n" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def announce(client: TestClient, **fields: object) -> str:
    response = client.post("/v1/uploads", json={"filename": "story.txt", **fields})
    assert response.status_code == 201
    assert response.headers["location"] == f"/v1/uploads/{response.json()['id']}"
    return str(response.json()["id"])


def chunks(content: bytes = CONTENT) -> Iterator[bytes]:
    yield from (content[start : start + 999] for start in range(0, len(content), 999))


def leftovers(context: Context) -> list[Path]:
    return list((context.settings.data_dir / INCOMING_FOLDER).glob("*"))


def assert_not_there(client: TestClient, context: Context, upload: str) -> None:
    assert client.get(f"/v1/uploads/{upload}").json()["state"] == "writing"
    assert context.store.size(upload_key(upload)) is None
    assert leftovers(context) == []


@pytest.mark.parametrize("fields", [{}, {"bytes": len(CONTENT)}, {"sha256": SHA256}])
def test_a_file_becomes_ready_with_its_content(
    client: TestClient, context: Context, fields: dict[str, object]
) -> None:
    upload = announce(client, **fields)
    assert_not_there(client, context, upload)
    response = client.put(f"/v1/uploads/{upload}/content", content=chunks())
    assert response.status_code == 200
    view = response.json()
    assert (view["state"], view["bytes"], view["sha256"]) == ("ready", len(CONTENT), SHA256)
    assert context.store.get_bytes(upload_key(upload)) == CONTENT
    assert client.get(f"/v1/uploads/{upload}").json() == view
    assert client.get("/v1/uploads").json()["data"] == [view]
    assert leftovers(context) == []


@pytest.mark.parametrize(
    ("fields", "content", "code"),
    [
        ({"bytes": len(CONTENT)}, CONTENT[:-1], "size_mismatch"),
        ({"bytes": len(CONTENT)}, b"", "size_mismatch"),
        ({"bytes": len(CONTENT)}, CONTENT + b"x", "size_mismatch"),
        ({"sha256": SHA256}, CONTENT[:-1] + b"x", "digest_mismatch"),
    ],
)
def test_other_content_than_announced_is_refused_and_can_be_sent_again(
    client: TestClient, context: Context, fields: dict[str, object], content: bytes, code: str
) -> None:
    upload = announce(client, **fields)
    response = client.put(f"/v1/uploads/{upload}/content", content=chunks(content))
    assert (response.status_code, response.json()["code"]) == (422, code)
    assert_not_there(client, context, upload)
    assert client.put(f"/v1/uploads/{upload}/content", content=CONTENT).status_code == 200


def test_too_large_a_file_is_refused_announced_or_not(client: TestClient, context: Context) -> None:
    limit = context.settings.max_upload_bytes
    announced = client.post("/v1/uploads", json={"filename": "a", "bytes": limit + 1})
    assert (announced.status_code, announced.json()["code"]) == (413, "too_large")
    absurd = client.post("/v1/uploads", json={"filename": "a", "bytes": 10**30})
    assert absurd.status_code == 413
    upload = announce(client)
    sent = client.put(f"/v1/uploads/{upload}/content", content=chunks(b"x" * (limit + 1)))
    assert (sent.status_code, sent.json()["code"]) == (413, "too_large")
    assert_not_there(client, context, upload)


def test_content_is_sent_once(client: TestClient, store: ObjectStore) -> None:
    upload = announce(client)
    client.put(f"/v1/uploads/{upload}/content", content=b"first")
    response = client.put(f"/v1/uploads/{upload}/content", content=b"second")
    assert (response.status_code, response.json()["code"]) == (409, "conflict")
    assert store.get_bytes(upload_key(upload)) == b"first"


def test_a_store_that_fails_leaves_the_upload_open_for_the_same_content_only(
    client: TestClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = announce(client)

    def away(_key: str, _path: Path) -> None:
        raise UnavailableError("The store is away.", code="storage")

    with monkeypatch.context() as patched:
        patched.setattr(context.store, "put_file", away)
        response = client.put(f"/v1/uploads/{upload}/content", content=CONTENT)
    assert (response.status_code, response.json()["code"]) == (503, "storage")
    assert_not_there(client, context, upload)
    assert client.put(f"/v1/uploads/{upload}/content", content=b"other").status_code == 409
    assert client.put(f"/v1/uploads/{upload}/content", content=CONTENT).status_code == 200


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), UnavailableError("full", code=FailureCode.STORAGE_FULL)],
)
def test_a_full_disk_is_a_507(
    client: TestClient, context: Context, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    upload = announce(client)

    def full(_key: str, _path: Path) -> None:
        raise error

    monkeypatch.setattr(context.store, "put_file", full)
    response = client.put(f"/v1/uploads/{upload}/content", content=CONTENT)
    assert (response.status_code, response.json()["code"]) == (507, "storage_full")
    assert response.json()["title"] == "Insufficient Storage"
    assert_not_there(client, context, upload)


@pytest.mark.parametrize("filename", ["", "x" * 256, "a\nb", "a\0b"])
def test_a_filename_that_cannot_be_shown_is_refused(client: TestClient, filename: str) -> None:
    response = client.post("/v1/uploads", json={"filename": filename})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/filename"


@pytest.mark.parametrize("filename", ["../../etc/passwd", "C:\\x", "/abs", "%2e%2e", "ü 日本"])
def test_a_filename_is_a_label_and_no_path(
    client: TestClient, context: Context, filename: str
) -> None:
    before = {path for path in context.settings.data_dir.parent.rglob("*") if path.is_file()}
    response = client.post("/v1/uploads", json={"filename": filename})
    upload = response.json()["id"]
    assert response.json()["filename"] == filename
    client.put(f"/v1/uploads/{upload}/content", content=b"x")
    after = {path for path in context.settings.data_dir.parent.rglob("*") if path.is_file()}
    written = {path for path in after - before if "ryangpt.db" not in path.name}
    assert written == {context.settings.data_dir / "objects" / upload_key(upload)}


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path) -> None:
    old, young = tmp_path / "upload-old", tmp_path / "upload-young"
    for path in (old, young):
        path.write_bytes(b"x")
    long_ago = young.stat().st_mtime - LEFTOVER_SECONDS - 60
    os.utime(old, (long_ago, long_ago))
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [young]
