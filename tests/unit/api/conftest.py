"""The API in process, on a SQLite file and a folder, without a broker."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.testclient import TestClient

from services.api.app import create_app
from services.api.context import Context
from shared.base.settings import Settings
from shared.db.session import Database
from shared.storage.base import ObjectStore
from tests.support.databases import create_sqlite

TOKEN = "a-token-for-tests-only"
NO_REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    return create_sqlite(tmp_path_factory.mktemp("api") / "empty.db")


@pytest.fixture
def settings(tmp_path: Path, empty_database: Path) -> Settings:
    """Settings of one test's platform: an own folder, a token, nothing behind the broker's port."""
    shutil.copy(empty_database, tmp_path / "ryangpt.db")
    return Settings(
        data_dir=tmp_path,
        database_url="",
        object_store="local",
        redis_url=SecretStr(NO_REDIS),
        inference_url="http://127.0.0.1:1",
        api_token=SecretStr(TOKEN),
        max_upload_bytes=100_000,
    )


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    """The application, not started."""
    return create_app(settings)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client with the right token; the application runs."""
    with TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        yield client


@pytest.fixture
def stranger(app: FastAPI, client: TestClient) -> TestClient:
    """A client without credentials, of the running application."""
    del client
    return TestClient(app)


@pytest.fixture
def context(app: FastAPI, client: TestClient) -> Context:
    """What the handlers of the running application use."""
    del client
    context: Context = app.state.context
    return context


@pytest.fixture
def database(context: Context) -> Database:
    """The running application's database."""
    return context.database


@pytest.fixture
def store(context: Context) -> ObjectStore:
    """The running application's object store."""
    return context.store
