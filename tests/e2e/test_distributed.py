"""The same platform on PostgreSQL, an S3 server and a Redis that others run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ryangpt.redis_server import start_redis
from tests.support.journey import (
    check_answers,
    check_second_run,
    check_training,
    run_tiny,
    write_corpus,
)
from tests.support.platforms import RunningPlatform, running_platform
from tests.support.postgres import CannotStartError, running_postgres
from tests.support.s3_servers import ACCESS_KEY, BUCKET, SECRET_KEY, rclone_server

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture
def database_url() -> Iterator[str]:
    try:
        with running_postgres() as url:
            yield url
    except CannotStartError as error:
        pytest.skip(f"no PostgreSQL: {error}")


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    server = start_redis(tmp_path / "redis")
    yield server.url
    server.stop()


@pytest.fixture
def platform(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[RunningPlatform]:
    with rclone_server(tmp_path / "s3") as s3:
        variables = {
            "RYANGPT_DATABASE_URL": database_url,
            "RYANGPT_REDIS_URL": redis_url,
            "RYANGPT_OBJECT_STORE": "s3",
            "RYANGPT_S3_ENDPOINT": s3.endpoint,
            "RYANGPT_S3_BUCKET": BUCKET,
            "RYANGPT_S3_ACCESS_KEY": ACCESS_KEY,
            "RYANGPT_S3_SECRET_KEY": SECRET_KEY,
        }
        with running_platform(tmp_path / "data", **variables) as running:
            yield running


def test_from_text_to_a_chat_answer_and_again(platform: RunningPlatform, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.txt")
    jobs = run_tiny(platform, corpus)
    check_training(platform, jobs)
    check_answers(platform)
    check_second_run(platform, corpus, jobs)
    assert not (tmp_path / "data" / "redis").exists(), "the given Redis was used"
    assert not (tmp_path / "data" / "ryangpt.db").exists(), "the given database was used"
    assert list((tmp_path / "s3" / BUCKET / "models").iterdir()), "objects are in the bucket"
