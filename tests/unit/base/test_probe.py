"""What a container's health check says of its service."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from shared.base.probe import problem
from tests.support.s3_servers import free_port


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health/ready" else 503)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_service_is_well_when_it_says_so(url: str) -> None:
    assert problem(f"{url}/health/ready") == ""
    assert problem(f"{url}/health/other") == f"{url}/health/other answers 503"


def test_a_service_that_is_away_is_not_well() -> None:
    url = f"http://127.0.0.1:{free_port()}/health/ready"
    assert problem(url).startswith(f"{url} does not answer: ")


def test_a_worker_is_well_while_its_file_is_young(tmp_path: Path) -> None:
    alive = tmp_path / "trainer.alive"
    assert problem(str(alive)) == f"{alive}: No such file or directory"
    alive.touch()
    assert problem(str(alive)) == ""
    old = time.time() - 100
    os.utime(alive, (old, old))
    assert problem(str(alive)).startswith(f"{alive} was last touched 100 s ago")


def test_the_exit_code_says_the_same(tmp_path: Path) -> None:
    alive = tmp_path / "trainer.alive"
    command = [sys.executable, "-m", "shared.base.probe", str(alive)]
    sick = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (sick.returncode, sick.stderr) == (1, f"{alive}: No such file or directory\n")
    alive.touch()
    assert subprocess.run(command, check=False).returncode == 0
