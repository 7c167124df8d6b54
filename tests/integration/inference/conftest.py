"""A real server on a real port over a store of its own, and the models the tests publish."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from services.inference.app import create_app
from services.inference.network import Network
from services.inference.runtime import Runtime, open_runtime
from services.inference.service import InferenceService
from shared.base.settings import Settings
from shared.model.transformer import Transformer
from shared.storage.local import LocalStore
from tests.support.serving import SMALL_MODELS, Publisher, random_model
from tests.support.waiting import wait_until

BASE, CHAT = (
    random_model(SMALL_MODELS["arcee"], seed=1),
    random_model(SMALL_MODELS["llama"], seed=2),
)


class Site:
    """A running inference service and what a test does to it."""

    def __init__(self, service: InferenceService, publisher: Publisher, url: str) -> None:
        self.service = service
        self.publisher = publisher
        self.url = url
        self.http = httpx.Client(base_url=url, timeout=60)

    def publish(self, name: str, model: Transformer, **options: Any) -> None:
        """Publish a version and wait until it is served."""
        pointer = self.publisher.publish(name, model, **options)
        wait_until(lambda: self.version(name) == pointer.version, f"{name} is served")

    def version(self, name: str) -> int | None:
        served = self.service.models.served(name)
        return served.version if served else None

    def complete(self, prompt: Any, **body: Any) -> dict[str, Any]:
        """POST /v1/completions, greedily unless told otherwise; must succeed."""
        response = self.http.post(
            "/v1/completions", json={"prompt": prompt, "temperature": 0, **body}
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


@contextmanager
def serve(
    folder: Path, *, open_with: Callable[[Settings], Runtime] = open_runtime, **settings: Any
) -> Iterator[Site]:
    """Run the service in this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    chosen = Settings(
        **{"data_dir": folder, "time_factor": 0.02, "device": "cpu", "num_threads": 1, **settings}
    )
    store = LocalStore(folder / "objects")
    service = InferenceService(chosen, store, open_with(chosen), use_hints=False)
    config = uvicorn.Config(
        create_app(service, chosen), log_config=None, timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    site = Site(service, Publisher(store, folder / "work"), url)
    try:
        wait_until(lambda: server.started, "the server has started")
        yield site
    finally:
        site.http.close()
        server.should_exit = True
        thread.join()


@pytest.fixture
def brakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While cleared, the engine computes no step; models are loaded nevertheless."""
    released = threading.Event()
    released.set()
    slow_steps(monkeypatch, lambda: released.wait(60))
    yield released
    released.set()


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Until it is set, a step of the engine takes 0.1 s at least, and the longest answer six."""
    hurry = threading.Event()
    slow_steps(monkeypatch, lambda: hurry.wait(0.1))
    yield hurry
    hurry.set()


def slow_steps(monkeypatch: pytest.MonkeyPatch, wait: Callable[[], object]) -> None:
    """Let the engine's thread, and no other one, wait before it computes a step."""
    forward = Network.forward

    def wait_first(self: Network, *args: Any) -> Any:
        if threading.current_thread().name == "engine":
            wait()
        return forward(self, *args)

    monkeypatch.setattr(Network, "forward", wait_first)


@pytest.fixture
def small_site(tmp_path: Path, brakes: threading.Event) -> Iterator[Site]:
    """One slot, one place to wait."""
    with serve(tmp_path, inference_slots=1, inference_queue=1) as site:
        site.publish("demo", random_model(SMALL_MODELS["arcee"]))
        yield site


@pytest.fixture
def empty_site(tmp_path: Path) -> Iterator[Site]:
    """A service without any model."""
    with serve(tmp_path) as site:
        yield site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A service with a base model `base` and a finetuned one, `chat`, for tests that change
    nothing."""
    with serve(tmp_path_factory.mktemp("site")) as site:
        site.publish("chat", CHAT, stage="finetune")
        site.publish("base", BASE)
        yield site
