"""A real Redis of our own: password, persistence, and no leftover when its starter is killed."""

from __future__ import annotations

import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from ryangpt import redis_server
from ryangpt.redis_server import RedisServer, find_redis_server, start_redis
from shared.base.errors import StartupError
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    started = start_redis(tmp_path / "with space")
    yield started
    started.stop()


def test_it_answers_with_the_password_only(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        assert client.ping() is True
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    with (
        redis.Redis(port=server.port) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_the_password_is_neither_on_a_command_line_nor_readable_by_others(
    server: RedisServer, tmp_path: Path
) -> None:
    commands = [" ".join(process.info["cmdline"] or ()) for process in
                psutil.process_iter(["cmdline"])]  # fmt: skip
    assert not any(server.password in command for command in commands)
    config = tmp_path / "with space" / "redis.conf"
    assert server.password in config.read_text()
    assert stat.S_IMODE(config.stat().st_mode) == 0o600


def test_it_listens_on_loopback_only(server: RedisServer) -> None:
    listening = [connection.laddr.ip for connection in
                 psutil.Process(server.process.pid).net_connections("inet")
                 if connection.status == psutil.CONN_LISTEN]  # fmt: skip
    assert listening == ["127.0.0.1"]


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    first = start_redis(tmp_path)
    with redis.Redis.from_url(first.url) as client:
        client.rpush("queue", "a", "b")
    first.stop()
    assert first.process.returncode == 0
    second = start_redis(tmp_path)
    try:
        with redis.Redis.from_url(second.url) as client:
            assert client.lrange("queue", 0, -1) == [b"a", b"b"]
        assert second.password != first.password
    finally:
        second.stop()


def test_a_port_in_use_is_one_clear_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StartupError, match=r"Redis did not start: .*Failed listening"):
            start_redis(tmp_path, port=taken.getsockname()[1])


def test_a_free_port_that_was_taken_meanwhile_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_port = redis_server._free_port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        offers = iter([taken.getsockname()[1], free_port()])
        monkeypatch.setattr(redis_server, "_free_port", lambda: next(offers))
        started = start_redis(tmp_path)
    started.stop()
    assert list(offers) == []


def test_an_old_server_on_the_path_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=5.0.14 sha=0'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis_server() != old
    monkeypatch.setattr(redis_server, "find_spec", lambda _: None)
    with pytest.raises(StartupError, match=rf"Redis 6.2 or later is needed: {old} is older"):
        find_redis_server()


def test_it_dies_with_its_starter(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from ryangpt.redis_server import start_redis; "
        "print(start_redis(Path(sys.argv[1])).process.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        server = psutil.Process(int(starter.stdout.readline()))
        assert server.name() == "redis-server"
        starter.send_signal(signal.SIGKILL)
    wait_until(lambda: not server.is_running(), "the server is gone")
