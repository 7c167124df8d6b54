"""What HTTP costs beside the engine: streamed tokens that one second of the loop's thread buys.

    python -m benchmarks.http_overhead [--runs 5] [--streams 64] [--tokens 400]

The real application answers over real sockets; only the engine is a stub, which puts out a token
for every stream at each step without computing anything. A second process reads the streams. The
figure is tokens divided by the processor time of the event loop's thread (`time.thread_time`), from
the first request to the last byte, requests included. The bound is 20,000 tokens a thread-second.
Rows: one token an event, by uvicorn's plain loop and parser and by the ones we install; then with
coalescing, at steps of 5 ms and of 1 ms. Then the real engine with the reference preset's layers:
tokens/s of 32 requests that are answered whole beside 32 that are streamed, which is what the
loop's thread takes from the engine's in the same process. Writes
benchmarks/results/http_overhead.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import tokenizers
import uvicorn
from tokenizers import decoders, models, pre_tokenizers, trainers

from services.inference import mailbox
from services.inference.app import create_app
from services.inference.engine import Engine
from services.inference.loaded_model import LoadedModel
from services.inference.network import Network
from services.inference.runtime import open_runtime
from services.inference.sequence import Sequence
from services.inference.service import InferenceService
from shared.base.files import write_bytes
from shared.base.settings import Settings
from shared.base.version import code_version
from shared.contracts.model_config import ModelConfig
from shared.contracts.names import SPECIAL_TOKENS
from shared.contracts.serving import ModelPointer
from shared.model.transformer import Transformer
from shared.storage.local import LocalStore
from shared.text.tokenizer import Tokenizer

RESULT = Path(__file__).parent / "results" / "http_overhead.json"
BOUND = 20_000
REAL_STREAMS, REAL_TOKENS = 32, 128
WORDS = ("the", "of", "and", "to", "in", "is", "was", "for", "that", "on", "as", "with", "by", "at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One row of the table."""

    name: str
    loop: Literal["asyncio", "uvloop"] = "uvloop"
    parser: Literal["h11", "httptools"] = "httptools"
    coalesces: bool = False
    step_seconds: float | None
    """The stub's; None is the real engine."""


SETUPS = (
    Setup(
        name="one token an event, asyncio + h11", loop="asyncio", parser="h11", step_seconds=0.02
    ),
    Setup(name="one token an event", step_seconds=0.01),
    Setup(name="coalescing, steps of 5 ms", coalesces=True, step_seconds=0.005),
    Setup(name="coalescing, steps of 1 ms", coalesces=True, step_seconds=0.001),
)


class StubEngine:
    """Puts out words; has of the engine what the service uses."""

    def __init__(self, deliver: Any, words: list[int], step_seconds: float) -> None:
        self._deliver = deliver
        self._words = words
        self._step_seconds = step_seconds
        self._lock = threading.Lock()
        self._running: dict[int, Sequence] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def start(self) -> None:
        """See Engine."""
        self._thread.start()

    def stop(self) -> None:
        """See Engine."""
        self._stopping.set()
        self._thread.join()

    def submit(self, *sequences: Sequence) -> None:
        """See Engine."""
        with self._lock:
            self._running |= {one.number: one for one in sequences}

    def abort(self, sequence: Sequence) -> None:
        """See Engine."""
        with self._lock:
            self._running.pop(sequence.number, None)

    def fix_version(self, sequence: Sequence) -> None:
        """See Engine; there is one version."""

    def _loop(self) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            with self._lock:
                running = list(self._running.values())
            deltas = [
                (one, one.accept(self._words[one.num_generated % len(self._words)]))
                for one in running
            ]
            with self._lock:
                for one, delta in deltas:
                    if delta.finish_reason is not None:
                        self._running.pop(one.number, None)
            if deltas:
                self._deliver(deltas)
            due = max(due + self._step_seconds, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))


class DirectService(InferenceService):
    """Serves one model that is simply there."""

    def use(self, model: LoadedModel, *, step_seconds: float | None) -> None:
        """Answer with `model`; with a stub engine if it has steps of its own."""
        if step_seconds is not None:
            words = model.tokenizer.encode(" ".join(WORDS))
            stub = StubEngine(self._dispatcher.deliver, words, step_seconds)
            self.engine = cast(Engine, stub)
        self.models.announce([model.name])
        self.models.install(model)

    def start(self) -> None:
        """Without the watcher, which would find nothing published."""
        self._dispatcher.attach(asyncio.get_running_loop())
        self.engine.start()

    async def stop(self) -> None:
        """Stop the engine."""
        await asyncio.to_thread(self.engine.stop)


def make_tokenizer() -> Tokenizer:
    """A small vocabulary whose words are tokens."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(WORDS)] * 8, trainer)
    return Tokenizer.from_json(backend.to_str())


def make_service(folder: Path, step_seconds: float | None) -> tuple[DirectService, Settings]:
    """The service over a tiny model that never computes, or over the reference preset's layers."""
    settings = Settings(data_dir=folder, device="cpu", inference_slots=REAL_STREAMS)
    runtime = open_runtime(settings)
    service = DirectService(settings, LocalStore(folder / "objects"), runtime, use_hints=False)
    tokenizer = make_tokenizer()
    config = ModelConfig(vocab_size=tokenizer.vocab_size)
    if step_seconds is not None:
        tiny = {"context_length": 8192, "num_layers": 1, "d_model": 32, "num_heads": 1, "d_ff": 32}
        config = config.model_copy(update=tiny)
    pointer = ModelPointer(
        model="stub", version=1, seq=1, checkpoint_id="none", manifest_key="none",
        manifest_sha256="0" * 64, stage="pretrain", published_at=datetime.now(UTC),
    )  # fmt: skip
    state = Transformer(config).state_dict()
    network = Network(config, state, device=runtime.device, dtype=runtime.dtype)
    model = LoadedModel(
        pointer=pointer,
        tokenizer=tokenizer,
        network=network,
        cache=runtime.caches.cache_for(config),
        attention=runtime.attention,
        device=runtime.device,
    )
    service.use(model, step_seconds=step_seconds)
    return service, settings


def measure(setup: Setup, *, streams: int, tokens: int, stream: bool = True) -> dict[str, float]:
    """Serve `streams` requests of `tokens` tokens once; CPU seconds of the loop's thread."""
    mailbox.COALESCE_FROM = 1 if setup.coalesces else sys.maxsize
    with tempfile.TemporaryDirectory() as folder:
        service, settings = make_service(Path(folder), setup.step_seconds)
        config = uvicorn.Config(
            create_app(service, settings), log_config=None, access_log=False,
            loop=setup.loop, http=setup.parser,
        )  # fmt: skip
        server = uvicorn.Server(config)
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        spent: list[float] = []

        def run() -> None:
            server.run(sockets=[listener])
            spent.append(time.thread_time())

        thread = threading.Thread(target=run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = [sys.executable, "-m", "benchmarks.http_overhead", "--read", url]
        sizes = ["--streams", str(streams), "--tokens", str(tokens)]
        command += [*sizes, *([] if stream else ["--whole"])]
        seen = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        server.should_exit = True
        thread.join()
    return {
        "tokens_per_event": streams * tokens / max(1, seen["events"]),
        "tokens_per_thread_second": streams * tokens / spent[0],
        "tokens_per_second": streams * tokens / seen["seconds"],
    }


async def read_answers(url: str, *, streams: int, tokens: int, stream: bool) -> dict[str, float]:
    """The other process: read all answers, count events with text."""
    host = urlsplit(url)
    body = json.dumps(
        {"prompt": "the", "stream": stream, "max_tokens": tokens, "ignore_eos": True}
    ).encode()
    request = (
        f"POST /v1/completions HTTP/1.1\r\nhost: {host.netloc}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        "connection: close\r\n\r\n"
    ).encode() + body

    async def one() -> int:
        reader, writer = await asyncio.open_connection(host.hostname, host.port)
        writer.write(request)
        answer = await reader.read(-1)
        writer.close()
        if (b"data: [DONE]" if stream else b'"usage"') not in answer:
            raise RuntimeError(f"An answer broke off: {answer[-300:]!r}")
        return answer.count(b"data: {") - 1  # the closing event has no text

    start = time.perf_counter()
    counts = await asyncio.gather(*(one() for _ in range(streams)))
    return {"events": sum(counts), "seconds": time.perf_counter() - start}


def beside_engine(runs: int) -> dict[str, float]:
    """Tokens/s of the real engine when answers are read whole and when they are streamed."""
    setup = Setup(name="real", step_seconds=None)
    rates: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(runs):
        for stream in (False, True):
            found = measure(setup, streams=REAL_STREAMS, tokens=REAL_TOKENS, stream=stream)
            rates[stream].append(found["tokens_per_second"])
    whole, streamed = statistics.median(rates[False]), statistics.median(rates[True])
    return {"whole": whole, "streamed": streamed, "ratio": streamed / whole}


def print_table(rows: list[dict[str, Any]]) -> None:
    """The figures for people."""
    print(f"{'':36}{'tokens/event':>14}{'tokens/thread-s':>18}{'x 20,000':>10}")
    for row in rows:
        rate = row["tokens_per_thread_second"]
        print(f"{row['name']:36}{row['tokens_per_event']:14.2f}{rate:18,.0f}{rate / BOUND:10.2f}")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--read", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--whole", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = {"streams": options.streams, "tokens": options.tokens}
    if options.read:
        reading = read_answers(options.read, **sizes, stream=not options.whole)
        print(json.dumps(asyncio.run(reading)))
        return
    runs: dict[str, list[dict[str, float]]] = {setup.name: [] for setup in SETUPS}
    for _ in range(options.runs):
        for setup in SETUPS:
            runs[setup.name].append(measure(setup, **sizes))
    rows = [
        {"name": name, **{key: statistics.median(run[key] for run in found) for key in found[0]}}
        for name, found in runs.items()
    ]
    print_table(rows)
    beside = beside_engine(options.runs)
    print(f"\nreal engine, {REAL_STREAMS} requests: {beside['whole']:.0f} tokens/s whole, ", end="")
    print(f"{beside['streamed']:.0f} streamed: ratio {beside['ratio']:.3f}")
    result = {
        **sizes, "runs": options.runs, "bound": BOUND, "rows": rows, "beside_engine": beside,
        "code": code_version(),
        "load_average": os.getloadavg()[0],
    }  # fmt: skip
    write_bytes(RESULT, (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
