"""Hints over a real Redis: heard at once, and not missed after an outage."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import redis

from ryangpt.redis_server import start_redis
from shared.base import hints
from shared.base.hints import HintListener
from shared.contracts.names import HintChannel
from shared.jobs.queue import Hints
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


class Ear:
    """Counts the hints it hears."""

    def __init__(self) -> None:
        self.heard = 0

    def wake(self) -> None:
        self.heard += 1


def shout_until_heard(sender: Hints, ear: Ear) -> None:
    """A hint sent before the listener has subscribed is lost, as hints may be."""
    before = ear.heard

    def heard() -> bool:
        sender.publish(HintChannel.EVENTS, "job_1")
        return ear.heard > before

    wait_until(heard, "a hint is heard")


def test_a_hint_is_heard_on_its_own_channel_only(tmp_path: Path) -> None:
    server = start_redis(tmp_path)
    ear, other = Ear(), Ear()
    listeners = [
        HintListener(server.url, HintChannel.EVENTS, ear.wake),
        HintListener(server.url, HintChannel.MODELS, other.wake),
    ]
    sender = Hints(server.url)
    try:
        for listener in listeners:
            listener.start()
        shout_until_heard(sender, ear)
        assert other.heard == 0
    finally:
        for listener in listeners:
            listener.stop()
        sender.close()
        server.stop()


def test_an_outage_is_told_once_and_never_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hints, "RECONNECT_SECONDS", 0.02)
    server = start_redis(tmp_path)
    ear = Ear()
    connections: list[str] = []
    connect = hints.redis.Redis.from_url

    def counted(url: str, **options: float) -> redis.Redis:
        connections.append(url)
        return connect(url, **options)

    monkeypatch.setattr(hints.redis.Redis, "from_url", counted)
    listener = HintListener(server.url, HintChannel.EVENTS, ear.wake)
    with caplog.at_level(logging.INFO, "shared.base.hints"):
        listener.start()
        sender = Hints(server.url)
        shout_until_heard(sender, ear)
        server.stop()
        wait_until(lambda: "polling alone" in caplog.text, "the outage is noticed")
        attempts = len(connections)
        wait_until(lambda: len(connections) > attempts + 3, "it goes on trying")
        listener.stop()
        sender.close()
    assert caplog.text.count("polling alone") == 1
