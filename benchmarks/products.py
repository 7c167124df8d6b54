"""Float32 matrix products of a training step: torch's own choice beside oneDNN, and what it gives.

    python -m benchmarks.products [--runs 20] [--threads 1] [--batch 2]

For the three shapes that take most of a step, forward and both gradients: GFLOP/s of MKL, which
torch takes, of oneDNN, which `shared.model.products` takes on CPUs with AVX-512, and for scale of
bfloat16. Then whole steps of the preset and of the reference's shape in all three. All take turns;
the best of the runs counts, on one thread in CPU time, which other work disturbs least. Writes
benchmarks/results/products.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.train_cpu import OURS, OURS_EQUAL, PRESET, REFERENCE_SHAPE, our_step
from shared.base.files import write_bytes
from shared.base.version import code_version
from shared.model import products

RESULT = Path(__file__).parent / "results" / "products.json"
SHAPES = {"up": (1024, 320, 1280), "query": (1024, 320, 320), "head": (512, 320, 16_000)}
"""Rows, inputs, outputs."""
Work = Callable[[], object]
Multiply = Callable[[Tensor, Tensor], Tensor]


def best_seconds(works: dict[str, Work], *, runs: int) -> dict[str, float]:
    """The best of `runs` turns of each, after one that does not count."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    best = dict.fromkeys(works, float("inf"))
    for turn in range(runs + 1):
        for name, work in works.items():
            began = clock()
            work()
            if turn:
                best[name] = min(best[name], clock() - began)
    return best


def product_works(rows: int, inputs: int, outputs: int) -> dict[str, Work]:
    """Each of the three products of a linear layer, each way."""

    def three(tensors: tuple[Tensor, Tensor, Tensor], multiply: Multiply) -> list[Work]:
        x, weight, grad = tensors
        return [
            lambda: multiply(x, weight),
            lambda: multiply(grad, weight.T),
            lambda: multiply(grad.T, x.T),
        ]

    wide = (torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs))
    half = (wide[0].bfloat16(), wide[1].bfloat16(), wide[2].bfloat16())
    ways = {
        "torch": three(wide, F.linear),
        "ours": three(wide, products.product),
        "bfloat16": three(half, F.linear),
    }
    names = ("forward", "input's gradient", "weight's gradient")
    return {
        f"{name}, {way}": work
        for way, works in ways.items()
        for name, work in zip(names, works, strict=True)
    }


def step_works(batch: int) -> dict[str, Work]:
    """Whole steps, with oneDNN and without, and in bfloat16."""

    def either(step: Work, wanted: bool) -> Work:
        def work() -> None:
            kept, products.HAS_WIDE_ONEDNN = products.HAS_WIDE_ONEDNN, wanted
            try:
                step()
            finally:
                products.HAS_WIDE_ONEDNN = kept

        return work

    works: dict[str, Work] = {}
    for name, config in {OURS: PRESET, OURS_EQUAL: REFERENCE_SHAPE}.items():
        step = our_step(config, batch)
        works[f"{name}: oneDNN"] = either(step, products.HAS_WIDE_ONEDNN)
        works[f"{name}: torch"] = either(step, False)
        works[f"{name}: bfloat16"] = our_step(config, batch, torch.bfloat16)
    return works


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {
        "uses_onednn": products.HAS_WIDE_ONEDNN,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": options.threads,
        "batch": options.batch,
        "torch": torch.__version__,
        "code": code_version(),
        "gflops": {},
    }
    with torch.no_grad():
        for name, shape in SHAPES.items():
            seconds = best_seconds(product_works(*shape), runs=options.runs)
            flops = 2 * shape[0] * shape[1] * shape[2]
            result["gflops"][name] = {way: flops / best / 1e9 for way, best in seconds.items()}
            for way, speed in result["gflops"][name].items():
                print(f"{name:6} {way:28} {speed:7.0f} GFLOP/s", flush=True)
    result["step_seconds"] = best_seconds(step_works(options.batch), runs=max(1, options.runs // 4))
    for name, best in result["step_seconds"].items():
        print(f"{name:40} {1000 * best:7.0f} ms a step", flush=True)
    write_bytes(RESULT, (json.dumps(result, indent=2) + "\n").encode())
    print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
