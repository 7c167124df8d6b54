"""Generating with the key/value cache beside computing the whole text anew for each token.

    python -m benchmarks.generate [--runs 5] [--threads N] [--new-tokens 64]

The reference preset with random weights in float32 on the CPU, greedy. First the cache: a prompt of
400 tokens and its continuation, through the engine and by the training module, which computes the
head for the last position only; the tokens must be the same. Both sides take turns; medians are
shown. benchmarks.serve_cpu measures many requests at once. Writes benchmarks/results/generate.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence as Items
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F

from services.inference.detokenizer import Detokenizer
from services.inference.engine import Engine, StepStats
from services.inference.host_runner import HostRunner
from services.inference.kv_cache import KVShape
from services.inference.loaded_model import LoadedModel
from services.inference.resident.runner import ResidentRunner
from services.inference.runner import Runner
from services.inference.runtime import Runtime, open_runtime
from services.inference.scheduler import Scheduler
from services.inference.sequence import Binding, SamplingParams, Sequence
from services.inference.threads import Cores
from shared.base.files import write_bytes
from shared.base.settings import Settings
from shared.base.version import code_version
from shared.contracts.manifest import MODEL_CONFIG_JSON, MODEL_WEIGHTS
from shared.contracts.model_config import ModelConfig
from shared.contracts.serving import ModelPointer
from shared.model.transformer import Transformer
from shared.model.weights import save_weights
from shared.text.tokenizer import Tokenizer
from shared.text.tokenizer_files import write_tokenizer_files

RESULT = Path(__file__).parent / "results" / "generate.json"
CONTEXT = 400


class NoObserver:
    """Listens to nothing."""

    def on_step(self, stats: StepStats) -> None:
        """See EngineObserver."""

    def on_token(self, sequence: Sequence, seconds: float) -> None:
        """See EngineObserver."""

    def on_finish(self, sequence: Sequence) -> None:
        """See EngineObserver."""


def random_model(config: ModelConfig) -> Transformer:
    """Weights at which every layer matters; a trained model costs the same."""
    model = Transformer(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            std = parameter.shape[1] ** -0.5
            torch.nn.init.normal_(parameter, std=std, generator=generator)
    return model.eval()


def write_checkpoint(folder: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """Write what serving and export need of a checkpoint."""
    save_weights(model, folder / MODEL_WEIGHTS)
    (folder / MODEL_CONFIG_JSON).write_text(model.config.model_dump_json())
    write_tokenizer_files(folder, tokenizer)


def load(model: Transformer, runtime: Runtime, *, num_slots: int) -> LoadedModel:
    """The same weights laid out for generation, with a cache of their own."""
    shape, device = KVShape.of(model.config), runtime.device
    pointer = ModelPointer(
        model="benchmark", version=1, seq=1, checkpoint_id="none", manifest_key="none",
        manifest_sha256="0" * 64, stage="pretrain", published_at=datetime.now(UTC),
    )  # fmt: skip
    network, resident = runtime.build(pointer.model, model.config, model.state_dict())
    if resident is not None:
        cache = runtime.caches.cache_for(model.config)
    else:
        cache = runtime.caches.one_off(shape, num_slots=num_slots)
    return LoadedModel(
        pointer=pointer,
        tokenizer=cast(Tokenizer, None),  # the engine is given ids and needs none
        network=network,
        cache=cache,
        attention=runtime.attention,
        device=device,
        resident=resident,
    )


def with_cache(
    model: LoadedModel, prompts: Items[list[int]], new_tokens: int
) -> tuple[float, list[list[int]]]:
    """Seconds for the engine to answer all prompts at once, and the answers."""
    if model.resident is None:
        runner: Runner = HostRunner(Cores(torch.get_num_threads()))
    else:
        runner = ResidentRunner(model.device)
    slots = model.cache.num_slots if model.resident is None else model.resident.table.scratch
    scheduler = Scheduler(num_slots=slots, token_budget=max(512, 2 * slots), max_waiting=slots)
    engine = Engine(scheduler, runner, lambda _: None, NoObserver())
    contents = (b"",) * model.network.config.vocab_size
    sequences = [
        Sequence(
            binding=Binding(model),
            prompt=tuple(prompt),
            sampling=SamplingParams(max_tokens=new_tokens, seed=0, temperature=0.0),
            detokenizer=Detokenizer(contents),
            capacity=model.context_length,
        )
        for prompt in prompts
    ]
    start = time.perf_counter()
    for sequence in sequences:
        engine.submit(sequence)
    while engine.step():
        pass
    seconds = time.perf_counter() - start
    return seconds, [one.tokens[len(one.prompt) :] for one in sequences]


@torch.inference_mode()
def without_cache(
    model: Transformer, prompt: list[int], new_tokens: int
) -> tuple[float, list[int]]:
    """Seconds to compute the whole text anew for each token, and the tokens."""
    ids = list(prompt)
    start = time.perf_counter()
    for _ in range(new_tokens):
        last = model.hidden(torch.tensor([ids]))[0, -1]
        ids.append(int(F.linear(last, model.head_weight).argmax()))
    return time.perf_counter() - start, ids[len(prompt) :]


def compare(
    model: Transformer, loaded: LoadedModel, *, runs: int, new_tokens: int
) -> dict[str, Any]:
    """The cache's gain at a context of 400 tokens."""
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(model.config.vocab_size, (CONTEXT,), generator=generator).tolist()
    with_cache(loaded, [prompt], 2)
    without_cache(model, prompt, 2)
    cached, uncached, one = [], [], []
    same = True
    for _ in range(runs):
        seconds, (found,) = with_cache(loaded, [prompt], new_tokens)
        cached.append(seconds)
        one.append(with_cache(loaded, [prompt], 1)[0])
        seconds, expected = without_cache(model, prompt, new_tokens)
        uncached.append(seconds)
        same = same and found == expected
    whole, prefill, slow = map(statistics.median, (cached, one, uncached))
    step = (whole - prefill) / (new_tokens - 1)
    return {
        "context": CONTEXT,
        "new_tokens": new_tokens,
        "same_tokens": same,
        "with_cache_s": whole,
        "without_cache_s": slow,
        "ratio": slow / whole,
        "with_cache_ms_a_token": step * 1e3,
        "without_cache_ms_a_token": slow / new_tokens * 1e3,
        "ratio_a_token": slow / new_tokens / step,
    }


def print_tables(result: dict[str, Any]) -> None:
    """The figures for people."""
    cache = result["cache"]
    print(f"{CONTEXT}-token prompt, {cache['new_tokens']} new tokens, {result['threads']} threads")
    print(f"{'':24}{'with cache':>12}{'without':>12}{'ratio':>8}")
    for label, key, ratio in (
        ("whole answer, s", "_s", "ratio"),
        ("a token, ms", "_ms_a_token", "ratio_a_token"),
    ):
        values = f"{cache[f'with_cache{key}']:12.3f}{cache[f'without_cache{key}']:12.3f}"
        print(f"{label:24}{values}{cache[ratio]:8.1f}")
    print(f"same tokens: {'yes' if cache['same_tokens'] else 'NO'}\n")


def main() -> None:
    """Measure, print, write; exits with 1 when the cache changes a token."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--new-tokens", type=int, default=64)
    options = parser.parse_args()
    runtime = open_runtime(Settings(device="cpu", num_threads=options.threads))
    model = random_model(ModelConfig())
    loaded = load(model, runtime, num_slots=1)
    result = {
        "model": model.config.model_dump(),
        "threads": options.threads,
        "runs": options.runs,
        "load_average_at_start": os.getloadavg()[0],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "code": code_version(),
        "cache": compare(model, loaded, runs=options.runs, new_tokens=options.new_tokens),
    }
    print_tables(result)
    write_bytes(RESULT, (json.dumps(result, indent=2) + "\n").encode())
    if not result["cache"]["same_tokens"]:
        sys.exit("the cache changed a token")


if __name__ == "__main__":
    main()
