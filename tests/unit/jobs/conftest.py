"""An empty SQLite database for each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.db.session import Database
from tests.support.databases import create_sqlite


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all tables, to be copied: making them takes longer than most tests."""
    return create_sqlite(tmp_path_factory.mktemp("sqlite") / "empty.db")


@pytest.fixture
def database(empty_sqlite: Path, tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{shutil.copy(empty_sqlite, tmp_path / 'test.db')}")
    yield database
    database.close()
