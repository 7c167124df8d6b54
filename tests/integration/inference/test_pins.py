"""From a pin in the database to the version that answers: the leader's pointers, followed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from shared.contracts.manifest import MANIFEST_NAME
from shared.contracts.names import HintChannel
from shared.db.session import Database
from shared.db.tables import JobRow
from shared.jobs.leader.pointers import write_dirty_pointers
from shared.jobs.life.publication import commit_checkpoint, pin
from shared.storage.folders import read_manifest
from tests.integration.inference.conftest import Site, serve
from tests.support.databases import create_sqlite
from tests.support.models import small_tokenizer
from tests.support.rows import running_training
from tests.support.serving import SMALL_MODELS, greedy_without_cache, random_model
from tests.support.waiting import wait_until

MODELS = {seed: random_model(SMALL_MODELS["arcee"], seed=seed) for seed in (1, 2, 3)}


class NoHints:
    """The service polls."""

    def publish(self, channel: HintChannel, payload: str) -> None:
        del channel, payload


class Platform:
    """A training that commits checkpoints, and the leader, beside a running service."""

    def __init__(self, database: Database, site: Site) -> None:
        self.site = site
        self._database = database
        with database.transaction() as session:
            self._job = running_training(session, publish="latest")

    def commit(self, version: int) -> None:
        """A checkpoint that is published by itself as the newest version."""
        with self._database.transaction() as session:
            self._commit(session, self._job, version)
        self.lead()

    def pin(self, version: int | None) -> None:
        with self._database.transaction() as session:
            pin(session, "demo", version)
        self.lead()

    def lead(self) -> None:
        """What the leader does at its next turn."""
        write_dirty_pointers(self._database, self.site.publisher.store, NoHints())

    def card(self) -> dict[str, Any]:
        card: dict[str, Any] = self.site.http.get("/v1/models/demo").json()
        return card

    def expect(self, version: int, *, pinned: bool) -> None:
        """Wait for a version; it must answer as its weights do."""
        served = lambda: (self.card().get("version"), self.card().get("pinned"))  # noqa: E731
        wait_until(lambda: served() == (version, pinned), f"version {version}, pinned: {pinned}")
        answer = self.site.complete([5], max_tokens=9, ignore_eos=True)
        ids = greedy_without_cache(MODELS[version], [5], 9)
        assert answer["choices"][0]["text"] == small_tokenizer().decode(ids)

    def _commit(self, session: Session, job: JobRow, version: int) -> None:
        publisher = self.site.publisher
        stored = publisher.store_version("demo", version, MODELS[version])
        commit_checkpoint(
            session,
            job.id,
            job.token,
            checkpoint_id=stored.checkpoint_id,
            prefix=stored.manifest_key.removesuffix(MANIFEST_NAME),
            manifest=read_manifest(publisher.store, stored.manifest_key),
            manifest_sha256=stored.manifest_sha256,
            best=False,
        )


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    database = Database(f"sqlite:///{create_sqlite(tmp_path / 'platform.db')}")
    with serve(tmp_path / "serving") as site:
        yield Platform(database, site)
    database.close()


def test_a_pin_goes_back_holds_against_what_is_published_and_can_be_lifted(
    platform: Platform,
) -> None:
    platform.commit(1)
    platform.expect(1, pinned=False)
    platform.commit(2)
    platform.expect(2, pinned=False)
    platform.pin(1)
    platform.expect(1, pinned=True)
    platform.commit(3)
    platform.expect(1, pinned=True)
    platform.pin(None)
    platform.expect(3, pinned=False)
    platform.pin(3)
    platform.expect(3, pinned=True)
    assert platform.site.http.get("/health/ready").json()["failures"] == []
