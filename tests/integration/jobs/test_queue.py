"""Wake-ups and hints over a real Redis, and without it."""

from __future__ import annotations

import base64
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr

from ryangpt.redis_server import start_redis
from shared.base.errors import UnavailableError
from shared.base.settings import Settings
from shared.contracts.names import HintChannel, Queue, TaskName
from shared.db.session import Database
from shared.jobs import queue
from shared.jobs.leader.dispatch import note_wakes, plan_wakes
from shared.jobs.life.presence import worker_heartbeat
from shared.jobs.queue import Hints, WakeSender, make_celery
from tests.support.databases import create_sqlite
from tests.support.rows import add_queued
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration
NOBODY = "redis://127.0.0.1:1/0"


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = start_redis(tmp_path_factory.mktemp("redis"))
    yield server.url
    server.stop()


def settings_for(url: str) -> Settings:
    return Settings(redis_url=SecretStr(url))


def test_a_wake_up_is_one_json_message_in_its_queue(redis_url: str) -> None:
    sender = WakeSender(make_celery(settings_for(redis_url)))
    sender.send(Queue.TRAINER_GPU, "job_x")
    sender.send(Queue.TOKENIZER, "job_y")
    sender.close()
    with redis.Redis.from_url(redis_url) as client:
        assert client.llen("trainer-light") == 0
        assert client.llen("tokenizer") == 1
        message = json.loads(client.lindex("trainer-gpu", 0))  # type: ignore[arg-type] # not async
    assert message["content-type"] == "application/json"
    assert message["headers"]["task"] == TaskName.WAKE
    arguments, _, _ = json.loads(base64.b64decode(message["body"]))
    assert arguments == ["job_x"]


def test_a_wake_up_without_redis_is_unavailable() -> None:
    sender = WakeSender(make_celery(settings_for(NOBODY)))
    with pytest.raises(UnavailableError) as raised:
        sender.send(Queue.TOKENIZER, "job_x")
    assert raised.value.code == "redis"


def test_a_redis_that_is_silent_is_taken_for_one_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queue, "SEND_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # connects by itself, and says nothing
        url = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        sender = WakeSender(make_celery(settings_for(url)))
        with pytest.raises(UnavailableError) as raised:
            sender.send(Queue.TOKENIZER, "job_x")
    assert raised.value.code == "redis"


def test_a_dropped_connection_is_made_anew(redis_url: str) -> None:
    sender = WakeSender(make_celery(settings_for(redis_url)))
    sender.send(Queue.TRAINER_LIGHT, "job_1")
    with redis.Redis.from_url(redis_url) as client:
        client.client_kill_filter(_type="normal", skipme=True)

        def is_sent() -> bool:
            try:
                sender.send(Queue.TRAINER_LIGHT, "job_2")
            except UnavailableError:
                return False
            return True

        wait_until(is_sent, "a wake-up over a new connection")
        assert client.llen("trainer-light") == 2
    sender.close()


def test_a_worker_consumes_the_queues_it_was_made_for_and_no_other() -> None:
    app = make_celery(settings_for(NOBODY), queues=(Queue.TRAINER_GPU, Queue.TRAINER_LIGHT))
    assert set(app.amqp.queues.consume_from) == {"trainer-gpu", "trainer-light"}


def test_a_message_is_acknowledged_before_the_work_and_no_result_is_kept() -> None:
    configuration = make_celery(settings_for(NOBODY)).conf
    assert configuration.task_acks_late is False
    assert configuration.result_backend is None
    assert configuration.task_ignore_result is True
    assert configuration.worker_prefetch_multiplier == 1
    assert configuration.worker_disable_prefetch is True
    assert configuration.worker_enable_remote_control is False
    assert configuration.worker_cancel_long_running_tasks_on_connection_loss is False
    assert configuration.accept_content == ["json"]


def test_a_hint_reaches_who_listens(redis_url: str) -> None:
    hints = Hints(redis_url)
    with redis.Redis.from_url(redis_url) as client, client.pubsub() as listener:
        listener.subscribe(HintChannel.MODELS)
        wait_until(lambda: listener.get_message(timeout=1) is not None, "the subscription")
        hints.publish(HintChannel.EVENTS, "for others")
        hints.publish(HintChannel.MODELS, "demo")
        received: list[bytes] = []

        def has_message() -> bool:
            message = listener.get_message(timeout=1)
            if message is not None:
                received.append(message["data"])
            return bool(received)

        wait_until(has_message, "the hint")
        assert received == [b"demo"]
    hints.close()


def test_hints_without_redis_are_given_up_with_one_word(caplog: pytest.LogCaptureFixture) -> None:
    hints = Hints(NOBODY)
    with caplog.at_level(logging.INFO, logger="shared.jobs.queue"):
        for _ in range(5):
            hints.publish(HintChannel.MODELS, "demo")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_ten_thousand_queued_jobs_put_few_messages_into_redis(
    redis_url: str, tmp_path: Path
) -> None:
    database = Database(f"sqlite:///{create_sqlite(tmp_path / 'test.db')}")
    add_queued(database, ["ann"] * 10_000)
    with database.transaction() as session:
        worker_heartbeat(session, "w", slots={Queue.TOKENIZER: 4}, running=[])
    client = redis.Redis.from_url(redis_url)
    client.delete(Queue.TOKENIZER)
    bell = WakeSender(make_celery(settings_for(redis_url)))
    for _ in range(20):
        with database.transaction() as session:
            wakes = plan_wakes(session, lease_seconds=3600, resend_seconds=3600)
            for wake in wakes:
                bell.send(wake.queue, wake.job_id)
            note_wakes(session, wakes)
    assert client.llen(Queue.TOKENIZER) == 8
    client.delete(Queue.TOKENIZER)
    client.close()
    bell.close()
    database.close()
