"""The API's tests of tests/unit/api, on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.base.settings import Settings
from shared.db.session import Database
from tests.support.databases import empty_all_tables
from tests.unit.api.conftest import NO_REDIS, TOKEN
from tests.unit.api.conftest import app as app
from tests.unit.api.conftest import client as client
from tests.unit.api.conftest import context as context
from tests.unit.api.conftest import database as database
from tests.unit.api.conftest import store as store
from tests.unit.api.conftest import stranger as stranger
from tests.unit.api.test_artifacts import *  # noqa: F403 - collected here, on this database
from tests.unit.api.test_events import *  # noqa: F403 - collected here, on this database
from tests.unit.api.test_events import trained as trained
from tests.unit.api.test_jobs import *  # noqa: F403 - collected here, on this database
from tests.unit.api.test_uploads import *  # noqa: F403 - collected here, on this database

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(tmp_path: Path, migrated_postgres: Database, postgres_url: str) -> Settings:
    """Settings of a platform on an empty PostgreSQL database."""
    empty_all_tables(migrated_postgres)
    return Settings(
        data_dir=tmp_path,
        database_url=postgres_url,
        object_store="local",
        redis_url=SecretStr(NO_REDIS),
        inference_url="http://127.0.0.1:1",
        api_token=SecretStr(TOKEN),
        max_upload_bytes=100_000,
    )


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_text_that_postgresql_cannot_store_is_refused_by_name(
    client: TestClient,  # noqa: F405 - comes with the tests above
    text: str,
) -> None:
    body = json.dumps({**rows.INGEST, "name": text})  # noqa: F405 - comes with the tests above
    headers = {"Content-Type": "application/json"}
    response = client.post("/v1/jobs", content=body, headers=headers)
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/name"
