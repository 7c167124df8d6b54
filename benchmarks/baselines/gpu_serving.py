"""The part of gpu_check that generates as the inference service does. Knows no HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from benchmarks.generate import load, random_model, with_cache
from services.inference.attention import SdpaBackend
from services.inference.loaded_model import LoadedModel
from services.inference.resident.decode_step import CudaGraphs, recompute
from services.inference.runtime import Runtime, choose_on_cuda, resident_runtime
from shared.base.settings import Settings
from shared.contracts.model_config import ModelConfig
from shared.model.transformer import Transformer

BATCHES = (1, 64, 512)
"""Requests at once."""
RUNS = 5
SMOKE = ModelConfig(
    vocab_size=512, context_length=32, num_layers=2, d_model=64, num_heads=1, d_ff=128
)

Answers = list[list[int]]


def check_serving(device: torch.device, *, smoke: bool, steps: int) -> dict[str, Any]:
    """Tokens/s by batch with the attention the service would choose, greedy, random weights.

    By CUDA graphs, operator by operator, and by transformers where it is installed, beside what
    the memory allows. Prompts as in benchmarks.serve_cpu. Answers may part where two logits are
    within rounding of each other; how many tokens agree is a fact as well.
    """
    del steps
    batches = BATCHES[:2] if smoke else BATCHES
    model = random_model(SMOKE if smoke else ModelConfig()).to(device)
    prompt, new = (4, 8) if smoke else (32, 128)
    runs = 1 if smoke else RUNS
    generator = torch.Generator().manual_seed(2)
    size = (batches[-1], prompt)
    prompts = torch.randint(model.config.vocab_size, size, generator=generator).tolist()
    graphs, operators = (_runtime(device, batches[-1], graphs=wanted) for wanted in (True, False))
    loaded = load(model, graphs, num_slots=batches[-1])
    bare = load(model, operators, num_slots=batches[-1])
    facts: dict[str, Any] = {**graphs.describe(), "swap_ms": _swap_ms(model, graphs, runs)}
    peer = _transformers(model, new) if find_spec("transformers") else None
    answers: dict[int, Answers] = {}
    for batch in batches:
        rate = facts[f"batch_{batch}"] = {}
        rate["graphs"], answers[batch] = _rate(loaded, prompts[:batch], new, runs)
        rate["operators"], same = _rate(bare, prompts[:batch], new, runs)
        rate["same_tokens"] = sum(map(_agreeing, answers[batch], same)) / (batch * new)
        if peer is not None:
            rate["transformers"] = _peer_rate(peer, prompts[:batch], new, runs)
        rate["bound_of_memory"] = _bound(loaded, batch, prompt + new // 2)
    alone, among = answers[batches[0]][0], answers[batches[1]][0]
    facts["tokens_that_agree"] = f"{_agreeing(alone, among)} of {new}"
    return facts


def _runtime(device: torch.device, num_slots: int, *, graphs: bool) -> Runtime:
    settings = Settings(inference_slots=num_slots)
    is_cuda = device.type == "cuda"
    return resident_runtime(
        settings,
        device=device,
        dtype=torch.bfloat16 if is_cuda else torch.float32,
        attention=choose_on_cuda("auto", device) if is_cuda else SdpaBackend(),
        new_capture=CudaGraphs if is_cuda and graphs else lambda: recompute,
    )


def _rate(
    loaded: LoadedModel, prompts: Answers, new_tokens: int, runs: int
) -> tuple[float, Answers]:
    """Tokens/s, the median of `runs` after one to warm up, and the answers."""
    found = [with_cache(loaded, prompts, new_tokens) for _ in range(runs + 1)]
    seconds = sorted(seconds for seconds, _ in found[1:])[runs // 2]
    return len(prompts) * new_tokens / seconds, found[-1][1]


def _agreeing(one: list[int], other: list[int]) -> int:
    """Tokens before the first that differs."""
    same = [left == right for left, right in zip(one, other, strict=True)]
    return [*same, False].index(False)


def _swap_ms(model: Transformer, runtime: Runtime, runs: int) -> float:
    """Milliseconds to bring new weights into an idle set."""
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        load(model, runtime, num_slots=0)
        if runtime.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[runs // 2] * 1e3


def _transformers(model: Transformer, new_tokens: int) -> Callable[[Answers], None]:
    """transformers' batched `generate` over the same weights in bfloat16."""
    from benchmarks.baselines.hugging_face import hugging_face

    generate = hugging_face(model, new_tokens, dtype=torch.bfloat16)

    def run(prompts: Answers) -> None:
        generate(prompts)

    return run


def _peer_rate(
    peer: Callable[[Answers], None], prompts: Answers, new_tokens: int, runs: int
) -> float:
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        peer(prompts)  # its answers are lists: the device has finished
        seconds.append(time.perf_counter() - start)
    return len(prompts) * new_tokens / sorted(seconds[1:])[runs // 2]


def _bound(loaded: LoadedModel, batch: int, context: int) -> float:
    """Tokens/s if a step only read its weights, and keys and values of `context` tokens a row."""
    shape, itemsize = loaded.cache.shape, loaded.cache.keys[0].element_size()
    row = 2 * shape.num_layers * shape.num_heads * shape.head_dim * context * itemsize
    return batch * _bytes_per_second(loaded.device) / (loaded.network.num_bytes + batch * row)


def _bytes_per_second(device: torch.device) -> float:
    """What a copy of a quarter GiB reads and writes in a second, the best of ten."""
    source = torch.zeros(1 << 28, dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(10):
        start = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * source.nbytes / (time.perf_counter() - start))
    return best
