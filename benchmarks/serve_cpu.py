"""The engine's tokens/s on the CPU beside transformers' `generate`, and llama.cpp where installed.

    python -m benchmarks.serve_cpu [--runs 5] [--threads 2] [--checkpoint DIR [--tokens DIR]]

The reference preset in float32, greedy, the same weights everywhere: random, or a checkpoint's.
Prompts of 32 tokens, 128 new ones each, for 1, 8 and 32 requests at once; all sides take turns in
one process, medians are shown, and the tokens are compared; tokens per second of processor time
(the best run) say more on a machine that others use too. The bound is what the matrix products
of one step take by themselves. llama.cpp gets the same weights through our own export and answers
one request at a time here. `int8` is ours with rounded weights; what they cost in bits per byte
of held-out text is shown where a checkpoint and a token set of its tokenizer are given. Writes
benchmarks/results/serve_cpu.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import string
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
import transformers

from benchmarks.baselines.hugging_face import Answers, Engine, hugging_face
from benchmarks.generate import load, random_model, with_cache, write_checkpoint
from services.inference.loaded_model import BatchRow, LoadedModel
from services.inference.matrix import WeightType, has_fast_int8, lay_out
from services.inference.runtime import Runtime, open_runtime
from services.tokenizer.learn import learn_bpe
from shared.base.files import write_bytes
from shared.base.settings import Settings
from shared.base.version import code_version
from shared.contracts.model_config import ModelConfig
from shared.model.gguf import FILE_NAME, export_gguf
from shared.model.transformer import Transformer
from shared.model.weights import load_model
from shared.text.token_set import TokenSplit
from shared.text.tokenizer import Tokenizer

BATCHES = (1, 8, 32)
BATCH_PROMPT = 32
RESULT = Path(__file__).parent / "results" / "serve_cpu.json"


def ours(loaded: LoadedModel, new_tokens: int) -> Engine:
    """The engine, stepped by hand."""
    return lambda prompts: with_cache(loaded, prompts, new_tokens)[1]


def llama_cpp(model: Transformer, threads: int, new_tokens: int) -> Engine:
    """llama.cpp through its Python binding, one request at a time."""
    from llama_cpp import Llama

    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), model, _learned(model.config.vocab_size))
        export_gguf(Path(folder), Path(folder))
        peer = Llama(
            str(Path(folder) / FILE_NAME), n_ctx=BATCH_PROMPT + new_tokens + 8, n_threads=threads,
            n_threads_batch=threads, verbose=False,
        )  # fmt: skip

    def generate(prompts: Answers) -> Answers:
        answers = []
        for prompt in prompts:
            peer.reset()
            tokens = peer.generate(prompt, temp=0.0, repeat_penalty=1.0)
            answers.append([next(tokens) for _ in range(new_tokens)])
        return answers

    return generate


def _learned(vocab_size: int) -> Tokenizer:
    """A vocabulary of random words, as llama.cpp refuses one without merges; nobody reads it."""
    letters = random.Random(0)
    words = ("".join(letters.choices(string.ascii_lowercase, k=12)) for _ in range(5000))
    return learn_bpe(words, vocab_size=vocab_size, min_frequency=1)


def bound(config: ModelConfig, batch: int, runs: int) -> float:
    """Tokens/s if a step were its matrix products alone, laid out as the engine's."""
    width, hidden = config.d_model, config.d_ff
    layer = [(width, 3 * width), (width, width), (width, hidden), (hidden, width)]
    shapes = [*layer * config.num_layers, (width, config.vocab_size)]
    matrices = [(inner, lay_out(torch.randn(out, inner))) for inner, out in shapes]
    inputs = {size: torch.randn(batch, size) for size in {width, hidden}}
    seconds = []
    with torch.inference_mode():
        for _ in range(10 * runs):
            start = time.perf_counter()
            for inner, matrix in matrices:
                matrix(inputs[inner])
            seconds.append(time.perf_counter() - start)
    return batch / statistics.median(seconds)


def bits_per_byte(loaded: LoadedModel, folder: Path) -> float:
    """Of a token set's held-out documents, joined and cut into contexts."""
    split = TokenSplit(folder, "validation")
    tokens = torch.from_numpy(np.concatenate(split.tokens).astype(np.int64))
    nats = 0.0
    for start in range(0, len(tokens) - 1, loaded.context_length):
        part = tokens[start : start + loaded.context_length + 1]
        ids = part[:-1].tolist()
        logits = loaded.compute([BatchRow(ids=ids, start=0, slot=0, num_logits=len(ids))])
        nats += float(F.cross_entropy(logits, part[1:], reduction="sum"))
    return nats / math.log(2) / split.index.text_bytes


def measure(
    engines: dict[str, Engine], config: ModelConfig, batch: int, runs: int, new_tokens: int
) -> Any:
    """Medians of tokens/s by engine, and whose tokens equal ours."""
    generator = torch.Generator().manual_seed(2)
    prompts = torch.randint(config.vocab_size, (batch, BATCH_PROMPT), generator=generator).tolist()
    rates: dict[str, list[float]] = {name: [] for name in engines}
    worked: dict[str, list[float]] = {name: [] for name in engines}
    answers: dict[str, Answers] = {}
    for run in range(runs + 1):  # the first one warms up
        for name, engine in engines.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            answers[name] = engine(prompts)
            if run:
                rates[name].append(batch * new_tokens / (time.perf_counter() - start))
                worked[name].append(batch * new_tokens / (time.process_time() - start_cpu))
    own = answers["ours"]
    return {
        "requests": batch,
        "bound": bound(config, batch, runs),
        "tokens_per_second": {name: statistics.median(found) for name, found in rates.items()},
        "best": {name: max(found) for name, found in rates.items()},
        "tokens_per_cpu_second": {name: max(found) for name, found in worked.items()},
        "same_answers": {
            name: sum(one == other for one, other in zip(own, found, strict=True))
            for name, found in answers.items()
        },
    }


def _runtime(threads: int, weights: WeightType) -> Runtime:
    return open_runtime(Settings(device="cpu", num_threads=threads, inference_weights=weights))


def print_table(rows: list[Any]) -> None:
    """The figures for people."""
    for row in rows:
        print(f"\n{row['requests']} requests at once; bound {row['bound']:.0f} tokens/s")
        print(f"{'':16}{'tokens/s':>10}{'best':>8}{'/CPU s':>8}{'ours is':>10}{'same answers':>15}")
        rates = row["tokens_per_second"]
        for name, rate in rates.items():
            same = f"{row['same_answers'][name]} of {row['requests']}"
            ratio = f"{rates['ours'] / rate:.2f} x"
            best, worked = row["best"][name], row["tokens_per_cpu_second"][name]
            print(f"{name:16}{rate:10.0f}{best:8.0f}{worked:8.0f}{ratio:>10}{same:>15}")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--tokens", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    options = parser.parse_args()
    new = options.new_tokens
    model = load_model(options.checkpoint) if options.checkpoint else random_model(ModelConfig())
    by_weights = {
        weights: load(model, _runtime(options.threads, weights), num_slots=max(BATCHES))
        for weights in get_args(WeightType)
        if weights == "auto" or has_fast_int8()
    }
    costs = {}
    if options.tokens:
        costs = {name: bits_per_byte(one, options.tokens) for name, one in by_weights.items()}
        print("bits per byte:", ", ".join(f"{name} {bits:.5f}" for name, bits in costs.items()))
    engines = {"ours": ours(by_weights["auto"], new), "transformers": hugging_face(model, new)}
    if "int8" in by_weights:
        engines["int8"] = ours(by_weights["int8"], new)
    alone = dict(engines)
    if find_spec("llama_cpp"):
        alone["llama.cpp"] = llama_cpp(model, options.threads, new)
    rows = [
        measure(alone if batch == 1 else engines, model.config, batch, options.runs, new)
        for batch in options.batches
    ]
    result = {
        "model": model.config.model_dump(),
        "threads": options.threads,
        "runs": options.runs,
        "new_tokens": new,
        "load_average_at_start": os.getloadavg()[0],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "code": code_version(),
        "bits_per_byte": costs,
        "throughput": rows,
    }
    print_table(rows)
    write_bytes(RESULT, (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
