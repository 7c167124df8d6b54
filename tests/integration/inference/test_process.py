"""The service as a process: how it starts, refuses to start, and stops."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from shared.base.settings import child_environment
from shared.storage.local import LocalStore
from tests.support.serving import SMALL_MODELS, Publisher, random_model
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[3]


def start(folder: Path, port: int, **variables: str) -> subprocess.Popen[str]:
    environment = child_environment(
        RYANGPT_DATA_DIR=str(folder),
        RYANGPT_INFERENCE_PORT=str(port),
        RYANGPT_DEVICE="cpu",
        RYANGPT_NUM_THREADS="1",
        RYANGPT_REDIS_URL="redis://127.0.0.1:1/0",
        **variables,
    )
    return subprocess.Popen(
        [sys.executable, "-m", "services.inference"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    process = start(folder, port)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def answers(http: httpx.Client, path: str) -> bool:
    try:
        return http.get(path).status_code == 200
    except httpx.TransportError:
        return False


def test_sigterm_lets_a_running_answer_end(tmp_path: Path) -> None:
    """It starts without Redis and without a model, serves what appears, and drains."""
    port = free_port()
    model = random_model(SMALL_MODELS["arcee"].model_copy(update={"context_length": 2000}))
    with (
        running(tmp_path, port) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http,
    ):
        wait_until(lambda: answers(http, "/health/ready"), "the service is ready", seconds=120)
        assert http.get("/health/ready").json()["models"] == []
        Publisher(LocalStore(tmp_path / "objects"), tmp_path / "work").publish("demo", model)
        wait_until(lambda: answers(http, "/v1/models/demo"), "the model is served")
        body = {"prompt": [5], "max_tokens": 1500, "ignore_eos": True, "stream": True}
        options = {"stream_options": {"include_usage": True}}
        with http.stream("POST", "/v1/completions", json={**body, **options}) as response:
            lines = response.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            events = [line.removeprefix("data: ") for line in lines if line]
        assert process.wait(60) == 0
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["usage"]["completion_tokens"] == 1500


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (
            {"RYANGPT_INFERENCE_HOST": "0.0.0.0"},
            "inference: Refusing to listen on 0.0.0.0 without a token: set RYANGPT_API_TOKEN",
        ),
        (
            {"RYANGPT_ATTENTION": "xformers"},
            "inference: attention=xformers needs a CUDA device",
        ),
        ({"RYANGPT_INFERENCE_SLOTS": "0"}, "inference: Bad setting. RYANGPT_INFERENCE_SLOTS"),
    ],
)
def test_a_setting_that_cannot_work_is_one_sentence(
    tmp_path: Path, variables: dict[str, str], sentence: str
) -> None:
    process = start(tmp_path, free_port(), **variables)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert output.startswith(sentence)
    assert output.count("\n") == 1


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = start(tmp_path, port)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert output == (
        f"inference: Cannot listen on 127.0.0.1:{port}: Address already in use. Stop what uses "
        "the port, or set RYANGPT_INFERENCE_PORT.\n"
    )
