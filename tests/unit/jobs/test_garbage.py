"""What no row names is deleted, once it can never be named; nothing else ever is."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from shared.base.clock import utc_now
from shared.contracts.names import Desired
from shared.db.repositories.artifacts import find_upload
from shared.db.repositories.checkpoints import mark_deleted
from shared.db.session import Database, database_now
from shared.jobs.leader.garbage import collect_garbage
from shared.jobs.life import lifecycle
from shared.storage.local import LocalStore
from tests.support.rows import (
    INGEST,
    add_ready_upload,
    claim_job,
    commit,
    dataset_meta,
    finish,
    running_training,
    submit,
)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "objects")


def put(store: LocalStore, *prefixes: str) -> list[str]:
    keys = [f"{prefix}part-0" for prefix in prefixes]
    for key in keys:
        store.put_bytes(key, b"x")
    return keys


def collect(database: Database, store: LocalStore, *, hours: float = -1) -> list[str]:
    """By default everything is old enough."""
    return sorted(collect_garbage(database, store, older_than=utc_now() - timedelta(hours=hours)))


def test_what_a_row_names_stays_and_the_rest_goes_once_the_fence_has_moved_on(
    database: Database, store: LocalStore
) -> None:
    with database.transaction() as session:
        job = running_training(session)
        named, retired = commit(session, job, 10), commit(session, job, 5)
        mark_deleted(session, [retired.id], database_now(session))
    kept = put(store, named.prefix)
    torn = put(store, f"jobs/{job.id}/t{job.token}/step-20/", retired.prefix)
    assert collect(database, store) == []  # the job runs under this very fence
    with database.transaction() as session:
        row = lifecycle.requeue(session, job.id, job.token)
        claim_job(session, row)
    under_way = put(store, f"jobs/{job.id}/t{job.token + 1}/step-30/")
    store.put_bytes(f"jobs/{job.id}/report.md", b"report")
    assert collect(database, store, hours=24) == []  # all of it is young
    assert collect(database, store) == sorted(torn)
    assert list(store.list_keys("jobs/")) == sorted([*kept, *under_way, f"jobs/{job.id}/report.md"])


def test_outputs_stay_and_objects_of_unknown_jobs_and_uploads_go(
    database: Database, store: LocalStore
) -> None:
    with database.transaction() as session:
        ingest = finish(session, submit(session, INGEST), dataset_meta())
        upload, announced = add_ready_upload(session), add_ready_upload(session, state="writing")
    kept = put(store, f"jobs/{ingest.id}/t1/dataset/")
    strangers = put(store, "jobs/job_unknown/t1/step-1/")
    for upload_id in (upload, announced, "upl_unknown"):
        store.put_bytes(f"uploads/{upload_id}", b"content")
    store.put_bytes("models/index.json", b"{}")
    gone = [*strangers, f"uploads/{announced}", "uploads/upl_unknown"]
    assert collect(database, store) == sorted(gone)
    assert list(store.list_keys("")) == sorted([*kept, "models/index.json", f"uploads/{upload}"])
    with database.reading() as session:
        assert find_upload(session, announced) is None


def test_files_of_killed_writers_go(database: Database, store: LocalStore) -> None:
    store.put_bytes("models/index.json", b"{}")
    left = store.root / "models" / f".index.json.{'0' * 32}.tmp"
    left.write_bytes(b"half")
    collect(database, store, hours=24)
    assert left.exists()
    collect(database, store)
    assert not left.exists()
    assert store.get_bytes("models/index.json") == b"{}"


@pytest.mark.parametrize("desired", list(Desired))
def test_an_attempt_that_was_lost_leaves_nothing(
    database: Database, store: LocalStore, desired: Desired
) -> None:
    with database.transaction() as session:
        job = running_training(session)
        job.desired = desired
    torn = put(store, f"jobs/{job.id}/t{job.token}/step-20/")
    with database.transaction() as session:
        lifecycle.reap_expired(session, database_now(session) + timedelta(seconds=60))
    assert collect(database, store) == torn
