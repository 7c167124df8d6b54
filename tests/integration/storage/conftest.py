"""The three stores that one contract is held against."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.storage.base import ObjectStore
from shared.storage.local import LocalStore
from tests.support.s3_servers import S3Server, moto_server, rclone_server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone_server(tmp_path_factory.mktemp("rclone") / "data") as server:
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with moto_server(tmp_path_factory.mktemp("moto") / "log") as server:
        yield server


def _store_named(name: str, request: pytest.FixtureRequest, folder: Path) -> ObjectStore:
    if name == "local":
        return LocalStore(folder / "objects")
    server: S3Server = request.getfixturevalue(name)
    return server.store()


@pytest.fixture(params=["local", "rclone", "moto"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """Each store in turn. Servers live for the session: use keys of your own."""
    return _store_named(request.param, request, tmp_path)


@pytest.fixture(params=["local", "moto"])
def conditional_store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """The stores with conditional writes; rclone ignores `If-None-Match` and overwrites."""
    return _store_named(request.param, request, tmp_path)
