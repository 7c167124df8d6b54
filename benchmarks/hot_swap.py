"""Swaps under load: how soon new weights answer, what requests notice, what memory it takes.

    python -m benchmarks.hot_swap [--swaps 1000] [--timed 10] [--clients 4]

The reference preset with random weights on local storage, served by a process of its own. First
`--timed` pointers are written one after another: the time until an answer names the new version, by
polling alone and with a reload asked for at once (what a hint does). Then `--swaps` pointers follow
one another as fast as they are served, while clients stream: failed requests are counted, and gaps
between tokens are split into those while a version is being loaded and the others. At the end, the
proportional set size of the process. Writes benchmarks/results/hot_swap.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch

from benchmarks.baselines.gpu_training import byte_tokenizer
from benchmarks.generate import random_model, write_checkpoint
from shared.base.clock import utc_now
from shared.base.files import write_bytes
from shared.base.ids import IdPrefix, new_id
from shared.base.settings import child_environment
from shared.base.version import code_version
from shared.contracts.manifest import (
    MANIFEST_NAME,
    CheckpointMeta,
    Manifest,
)
from shared.contracts.model_config import ModelConfig
from shared.contracts.serving import MODELS_INDEX_KEY, ModelPointer, ModelsIndex
from shared.model.canary import canary_loss
from shared.model.transformer import Transformer
from shared.storage.folders import describe_folder, store_folder
from shared.storage.keys import checkpoint_prefix
from shared.storage.local import LocalStore

RESULT = Path(__file__).parent / "results" / "hot_swap.json"
TOKENS_PER_STREAM = 48
VERSIONS_STORED = 3
"""Checkpoints that the pointers go round: each is a new version with other weights."""


class Publisher:
    """Stores a few checkpoints and points to them in turn, under rising versions."""

    def __init__(self, root: Path) -> None:
        self._store = LocalStore(root / "objects")
        self._pointers = [self._store_one(root / f"work{n}", n) for n in range(VERSIONS_STORED)]
        self.version = 0

    def publish(self) -> int:
        """Write the index with the next version; returns it."""
        self.version += 1
        one = self._pointers[self.version % VERSIONS_STORED]
        numbers = {"version": self.version, "seq": self.version, "published_at": utc_now()}
        index = ModelsIndex(seq=self.version, models=(one.model_copy(update=numbers),))
        self._store.put_bytes(MODELS_INDEX_KEY, index.model_dump_json().encode())
        return self.version

    def _store_one(self, folder: Path, number: int) -> ModelPointer:
        tokenizer = byte_tokenizer(ModelConfig().vocab_size)
        model = _rotated(random_model(ModelConfig()), number)
        folder.mkdir()
        write_checkpoint(folder, model, tokenizer)
        checkpoint, job = new_id(IdPrefix.CHECKPOINT), new_id(IdPrefix.JOB)
        manifest = Manifest(
            id=checkpoint, job_id=job, token=1, created_at=utc_now(), files=describe_folder(folder),
            meta=CheckpointMeta(
                step=1, stage="pretrain", model=model.config, tokenizer_sha256=tokenizer.sha256,
                canary_loss=canary_loss(model.config, model.state_dict(), tokenizer),
            ),
        )  # fmt: skip
        prefix = checkpoint_prefix(job, 1, 1)
        digest = store_folder(self._store, prefix, folder, manifest)
        return ModelPointer(
            model="swapped", version=1, seq=1, checkpoint_id=checkpoint,
            manifest_key=prefix + MANIFEST_NAME, manifest_sha256=digest, stage="pretrain",
            published_at=utc_now(),
        )  # fmt: skip


def _rotated(model: Transformer, number: int) -> Transformer:
    """Other weights of the same size: every matrix with its rows moved on."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.roll(number, 0))
    return model


@contextmanager
def served(root: Path) -> Iterator[tuple[str, int]]:
    """Run the inference service; yields its URL and process id."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = child_environment(
        RYANGPT_DATA_DIR=str(root), RYANGPT_INFERENCE_PORT=str(port), RYANGPT_DEVICE="cpu",
        RYANGPT_REDIS_URL="redis://127.0.0.1:1/0",
    )  # fmt: skip
    command = [sys.executable, "-m", "services.inference"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for_version(url, 1, time.perf_counter() + 120)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(60)


def _wait_for_version(url: str, version: int, until: float) -> None:
    """Ask for one token until an answer comes from `version` or a newer one."""
    body = {"prompt": [5], "max_tokens": 1, "temperature": 0}
    with httpx.Client(base_url=url, timeout=60) as http:
        while time.perf_counter() < until:
            try:
                answer = http.post("/v1/completions", json=body)
            except httpx.ConnectError:
                time.sleep(0.05)
                continue
            if answer.status_code == 200 and int(answer.headers["x-model-version"]) >= version:
                return
            time.sleep(0.002)
    raise SystemExit(f"version {version} did not answer in time")


def _wait_until_served(url: str, version: int, until: float) -> None:
    """Look now and then which version is served: requests would compete with the streams."""
    with httpx.Client(base_url=url, timeout=60) as http:
        while time.perf_counter() < until:
            if http.get("/v1/models/swapped").json()["version"] >= version:
                return
            time.sleep(0.02)
    raise SystemExit(f"version {version} was not served in time")


def swap_seconds(url: str, publisher: Publisher, count: int, *, hint: bool) -> list[float]:
    """Seconds from a written pointer to an answer from its weights, alone on the service."""
    found = []
    for _ in range(count):
        start = time.perf_counter()
        version = publisher.publish()
        if hint:
            httpx.post(f"{url}/admin/reload", timeout=60).raise_for_status()
        _wait_for_version(url, version, start + 60)
        found.append(time.perf_counter() - start)
    return found


class Load:
    """Clients that stream without a pause, and what they saw."""

    def __init__(self, url: str, clients: int) -> None:
        self.done = threading.Event()
        self.gaps: list[tuple[float, float]] = []
        """When each token came and how long after the one before."""
        self.requests = 0
        self.failed: list[str] = []
        self._url = url
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def start(self) -> None:
        """Start streaming."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after the streams that run."""
        self.done.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=120) as http:
            while not self.done.is_set():
                self.requests += 1
                try:
                    self._stream(http)
                except (httpx.HTTPError, RuntimeError) as error:
                    self.failed.append(repr(error))

    def _stream(self, http: httpx.Client) -> None:
        body = {
            "prompt": [5, 6, 7], "max_tokens": TOKENS_PER_STREAM, "temperature": 0,
            "ignore_eos": True, "stream": True,
        }  # fmt: skip
        last, complete = None, False
        with http.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                raise RuntimeError(f"status {response.status_code}")
            for line in response.iter_lines():
                if '"error"' in line:
                    raise RuntimeError(line)
                complete = complete or line == "data: [DONE]"
                now = time.perf_counter()
                if line.startswith("data: {"):
                    if last is not None:
                        self.gaps.append((now, now - last))
                    last = now
        if not complete:
            raise RuntimeError("a stream broke off")


def swaps_under_load(url: str, publisher: Publisher, swaps: int, clients: int) -> dict[str, Any]:
    """Publish version after version while clients stream."""
    load = Load(url, clients)
    load.start()
    time.sleep(5)
    steady_until = time.perf_counter()
    for _ in range(swaps):
        version = publisher.publish()
        httpx.post(f"{url}/admin/reload", timeout=60).raise_for_status()
        _wait_until_served(url, version, time.perf_counter() + 120)
    ended = time.perf_counter()
    load.stop()
    steady = [gap for at, gap in load.gaps if at < steady_until]
    swapping = [gap for at, gap in load.gaps if steady_until <= at <= ended]
    median = statistics.median(steady)
    p99 = statistics.quantiles(swapping, n=100)[98]
    return {
        "swaps": swaps,
        "seconds": ended - steady_until,
        "requests": load.requests,
        "failed": len(load.failed),
        "failures": load.failed[:5],
        "steady_median_gap_ms": median * 1e3,
        "steady_p99_gap_ms": statistics.quantiles(steady, n=100)[98] * 1e3,
        "swapping_p99_gap_ms": p99 * 1e3,
        "ratio_to_steady_median": p99 / median,
    }


def pss_mib(pid: int) -> float:
    """Proportional set size of a process, MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024


def main() -> None:
    """Measure, print, write; exits with 1 when a request failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--timed", type=int, default=10)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        publisher = Publisher(Path(name))
        publisher.publish()
        with served(Path(name)) as (url, pid):
            result: dict[str, Any] = {"pss_mib_at_start": pss_mib(pid)}
            for label, hint in (("hint", True), ("poll", False)):
                seconds = swap_seconds(url, publisher, options.timed, hint=hint)
                result[f"{label}_median_s"] = statistics.median(seconds)
                result[f"{label}_worst_s"] = max(seconds)
            result["pss_mib_after_swaps"] = pss_mib(pid)
            result["load"] = swaps_under_load(url, publisher, options.swaps, options.clients)
            result["pss_mib_after_load"] = pss_mib(pid)
    result |= {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "code": code_version(),
    }
    print(json.dumps(result, indent=2))
    write_bytes(RESULT, (json.dumps(result, indent=2) + "\n").encode())
    if result["load"]["failed"]:
        sys.exit("requests failed")


if __name__ == "__main__":
    main()
