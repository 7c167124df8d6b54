"""Celery as a bell: a message says "look at the database", and losing it loses no job.

Settings follow from that and were measured with celery 5.7 on Redis 7: early acknowledgement (a
long task is never delivered twice), no result backend (a send with Redis down would block for 20
seconds), no prefetching, no remote control, no revoking.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any

import kombu
import redis
from celery import Celery

from shared.base.errors import UnavailableError
from shared.base.settings import Settings
from shared.contracts.names import HintChannel, Queue, TaskName

logger = logging.getLogger(__name__)

HINT_TIMEOUT_SECONDS = 0.5
"""A hint that takes longer is not worth waiting for."""
HINT_PAUSE_SECONDS = 5.0
"""After a failure no hint is tried for this long, so that no caller waits again and again."""

SEND_TIMEOUT_SECONDS = 5.0
"""A Redis that is silent for so long is taken for one that is away."""

CELERY_SETTINGS: dict[str, Any] = {
    "task_acks_late": False,
    "task_ignore_result": True,
    "result_backend": None,
    "task_publish_retry": False,
    "task_serializer": "json",
    "accept_content": ["json"],
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_send_task_events": False,
    "worker_enable_remote_control": False,
    "worker_hijack_root_logger": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_transport_options": {
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "retry_on_timeout": True,
    },
}


def make_celery(settings: Settings, *, queues: Collection[Queue] = ()) -> Celery:
    """A Celery application; `queues` are those a worker made from it consumes.

    One that only sends waits for no answer longer than a while. (One that consumes does.)
    """
    app = Celery("ryangpt", broker=settings.redis_url.get_secret_value(), set_as_current=False)
    app.conf.update(CELERY_SETTINGS)
    if queues:
        app.select_queues([str(queue) for queue in queues])
    else:
        options = CELERY_SETTINGS["broker_transport_options"]
        app.conf.broker_transport_options = options | {"socket_timeout": SEND_TIMEOUT_SECONDS}
    return app


class WakeSender:
    """Rings for workers. Used by the leader alone."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def send(self, queue: Queue, job_id: str) -> None:
        """Wake one worker of `queue`; the id is a hint. Raises UnavailableError without Redis."""
        try:
            self._app.send_task(
                TaskName.WAKE, args=[job_id], queue=str(queue), retry=False, ignore_result=True
            )
        except (kombu.exceptions.OperationalError, redis.RedisError, OSError) as error:
            raise UnavailableError(f"Redis cannot be reached: {error}", code="redis") from error

    def close(self) -> None:
        """Close the connections to Redis."""
        self._app.close()


class Hints:
    """Messages whose loss costs a poll interval. Thread-safe; never raises, logs an outage once."""

    def __init__(self, redis_url: str) -> None:
        self._client = redis.Redis.from_url(
            redis_url,
            socket_connect_timeout=HINT_TIMEOUT_SECONDS,
            socket_timeout=HINT_TIMEOUT_SECONDS,
        )
        self._quiet_until = 0.0

    def publish(self, channel: HintChannel, payload: str) -> None:
        """Send `payload` to whoever listens on `channel` now."""
        if time.monotonic() < self._quiet_until:
            return
        try:
            self._client.publish(channel, payload)
        except (redis.RedisError, OSError) as error:
            if not self._quiet_until:
                logger.warning("Hints pause, polling goes on: %s", error)
            self._quiet_until = time.monotonic() + HINT_PAUSE_SECONDS
        else:
            if self._quiet_until:
                logger.info("Hints are back.")
            self._quiet_until = 0.0

    def close(self) -> None:
        """Close the connections to Redis."""
        self._client.close()
