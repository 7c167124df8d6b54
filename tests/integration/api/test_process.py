"""The API as a process: how it refuses to start, and what a broken upload leaves."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from shared.storage.keys import upload_key
from tests.support.api_server import API_TOKEN, HEADERS, api_environment, running_api
from tests.support.databases import create_sqlite
from tests.support.s3_servers import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration


def start(data_dir: Path, port: int, **variables: str) -> subprocess.CompletedProcess[str]:
    """Start the API where it cannot; return how it ended."""
    return subprocess.run(
        [sys.executable, "-m", "services.api"],
        env=api_environment(data_dir, port, **variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    create_sqlite(tmp_path / "ryangpt.db")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = start(tmp_path, port)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"api: Cannot listen on 127.0.0.1:{port}: Address already in use. "
        "Stop what uses the port, or set RYANGPT_API_PORT.\n"
    )


def test_beyond_loopback_a_token_is_required(tmp_path: Path) -> None:
    create_sqlite(tmp_path / "ryangpt.db")
    variables = {"RYANGPT_API_HOST": "0.0.0.0", "RYANGPT_API_TOKEN": ""}
    ended = start(tmp_path, free_port(), **variables)
    assert ended.returncode == 1
    assert ended.stderr.startswith("api: Refusing to listen on 0.0.0.0 without a token")
    assert ended.stderr.count("\n") == 1


def test_a_database_that_was_not_migrated_is_one_sentence(tmp_path: Path) -> None:
    ended = start(tmp_path, free_port())
    assert ended.returncode == 1
    assert "python -m shared.db.migrate" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_the_token_appears_in_no_log_line(tmp_path: Path) -> None:
    with running_api(tmp_path) as server:
        httpx.get(f"{server.url}/v1/jobs", headers=HEADERS, trust_env=False)
        httpx.get(f"{server.url}/inference/v1/models", headers=HEADERS, trust_env=False)
        server.process.terminate()
        server.process.wait(timeout=30)
        assert API_TOKEN not in server.log.read_text()


def test_an_upload_that_breaks_off_leaves_nothing_and_can_be_sent_again(tmp_path: Path) -> None:
    content = b"x" * 3_000_000
    with (
        running_api(tmp_path) as server,
        httpx.Client(base_url=server.url, headers=HEADERS, trust_env=False) as client,
    ):
        announced = {"filename": "a.txt", "bytes": len(content)}
        upload = client.post("/v1/uploads", json=announced).json()["id"]
        incoming = tmp_path / "incoming"
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = (
                f"PUT /v1/uploads/{upload}/content HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                f"Authorization: Bearer {API_TOKEN}\r\nContent-Length: {len(content)}\r\n\r\n"
            )
            connection.sendall(head.encode() + content[:2_500_000])
            wait_until(lambda: any(incoming.glob("*")), "the upload has begun")
        wait_until(lambda: not any(incoming.glob("*")), "the temporary file is gone")
        assert client.get(f"/v1/uploads/{upload}").json()["state"] == "writing"
        assert not (tmp_path / "objects" / upload_key(upload)).exists()
        again = client.put(f"/v1/uploads/{upload}/content", content=content)
        assert (again.status_code, again.json()["state"]) == (200, "ready")
        assert (tmp_path / "objects" / upload_key(upload)).read_bytes() == content
        assert "Traceback" not in server.log.read_text()
