"""Listens on a Redis channel for hints: word that looking now is worth it.

A hint saves a poll interval and no more: without Redis everything works, a little later.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import redis

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
LISTEN_SECONDS = 0.5
RECONNECT_SECONDS = 5.0


class HintListener:
    """A thread that calls `wake` for each message on `channel`; what it says does not matter."""

    def __init__(self, redis_url: str, channel: str, wake: Callable[[], None]) -> None:
        self._url = redis_url
        self._channel = channel
        self._wake = wake
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=f"hints-{channel}", daemon=True)
        self._told_of_outage = False

    def start(self) -> None:
        """Start listening."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; returns within LISTEN_SECONDS, or a connection's time-out."""
        self._stopping.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except (redis.RedisError, OSError) as error:
                if not self._told_of_outage:
                    logger.info("No hints from Redis, polling alone: %s", error)
                self._told_of_outage = True
                self._stopping.wait(RECONNECT_SECONDS)

    def _listen(self) -> None:
        with (
            redis.Redis.from_url(self._url, socket_connect_timeout=CONNECT_SECONDS) as client,
            client.pubsub(ignore_subscribe_messages=True) as subscription,
        ):
            subscription.subscribe(self._channel)
            while not self._stopping.is_set():
                message = subscription.get_message(timeout=LISTEN_SECONDS)
                self._told_of_outage = False
                if message is not None:
                    self._wake()
