"""Listens on Redis for word of a new model, so that nobody waits for the next poll.

A hint is worth a poll interval and no more: without Redis everything works, a second later.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import redis

from shared.contracts.names import HintChannel

logger = logging.getLogger(__name__)

LISTEN_SECONDS = 0.5
RECONNECT_SECONDS = 5.0


class HintListener:
    """A thread that calls `wake` for each message on the models' channel."""

    def __init__(self, redis_url: str, wake: Callable[[], None]) -> None:
        self._url = redis_url
        self._wake = wake
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="model-hints", daemon=True)
        self._connected = True

    def start(self) -> None:
        """Start listening."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except (redis.RedisError, OSError) as error:
                if self._connected:
                    logger.info("No hints from Redis, polling alone: %s", error)
                self._connected = False
                self._stopping.wait(RECONNECT_SECONDS)

    def _listen(self) -> None:
        with (
            redis.Redis.from_url(self._url, socket_connect_timeout=5) as client,
            client.pubsub(ignore_subscribe_messages=True) as subscription,
        ):
            subscription.subscribe(HintChannel.MODELS)
            while not self._stopping.is_set():
                message = subscription.get_message(timeout=LISTEN_SECONDS)
                self._connected = True
                if message is not None:
                    self._wake()
