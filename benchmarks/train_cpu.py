"""Training the reference preset on a CPU: this platform beside the reference's architecture.

    python -m benchmarks.train_cpu [--runs 5] [--threads 2] [--batch 8]

Four rows, taking turns, in float32 on synthetic tokens. Through the trainer's real loop: the preset
(12.5M parameters, ReLU^2, tied head), and the same code in the reference's shape (20.07M, SwiGLU,
untied head). Beside them a compact version of the reference in that shape with its documented
habits (three-dimensional attention, float32 logits with temporaries, plain AdamW), and the same
page of code without them, a stronger peer than the reference. The second against the third is the
ratio at equal parameters. Medians over the runs; `cores` is CPU time over wall time, which says how
quiet the machine was. Writes benchmarks/results/train_cpu.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.baselines.reference_model import ReferenceTrainer
from benchmarks.baselines.synthetic_run import SyntheticRun, synthetic_stream
from services.trainer.gauge import Machine
from shared.base.files import write_bytes
from shared.base.version import code_version
from shared.contracts.model_config import ModelConfig

RESULT = Path(__file__).parent / "results" / "train_cpu.json"
PRESET = ModelConfig()
REFERENCE_SHAPE = ModelConfig(family="llama", tie_embeddings=False)
OURS, OURS_EQUAL, REFERENCE = "ryan-gpt preset", "ryan-gpt, reference's shape", "reference"
TUNED = "reference without its habits"
Step = Callable[[], None]


def our_step(config: ModelConfig, batch: int, dtype: torch.dtype = torch.float32) -> Step:
    """One optimizer step of the trainer."""
    run = SyntheticRun(config, batch, torch.device("cpu"), dtype=dtype)
    # Measuring the CPU's bound is no part of a step.
    run.machine = Machine(device=run.device, flops_per_token=1, peak_flops=None)

    def step() -> None:
        run.train(1)

    return step


def reference_step(batch: int, *, tuned: bool = False) -> Step:
    """One optimizer step of the compact reference."""
    trainer = ReferenceTrainer(REFERENCE_SHAPE, tuned=tuned)
    length = REFERENCE_SHAPE.context_length
    stream = torch.from_numpy(synthetic_stream(REFERENCE_SHAPE, batch * length + 1).astype("int64"))
    ids, targets = stream[:-1].view(batch, length), stream[1:].view(batch, length)

    def step() -> None:
        trainer.step(ids, targets)

    return step


def measure(steps: dict[str, Step], *, runs: int, tokens: int) -> dict[str, dict[str, float]]:
    """Run all in turns, once unmeasured; returns medians by row."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for turn in range(runs + 1):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            spent = (time.perf_counter() - wall, time.process_time() - cpu)
            if turn:
                seconds[name].append(spent)
    return {
        name: {
            "tokens_per_second": tokens / statistics.median(wall for wall, _ in spent),
            "best_tokens_per_second": tokens / min(wall for wall, _ in spent),
            "cores": statistics.median(cpu / wall for wall, cpu in spent),
        }
        for name, spent in seconds.items()
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    steps = {
        OURS: our_step(PRESET, options.batch),
        OURS_EQUAL: our_step(REFERENCE_SHAPE, options.batch),
        REFERENCE: reference_step(options.batch),
        TUNED: reference_step(options.batch, tuned=True),
    }
    tokens = options.batch * PRESET.context_length
    rows = measure(steps, runs=options.runs, tokens=tokens)
    parameters = {
        OURS: PRESET.num_parameters,
        OURS_EQUAL: REFERENCE_SHAPE.num_parameters,
        REFERENCE: REFERENCE_SHAPE.num_parameters,
        TUNED: REFERENCE_SHAPE.num_parameters,
    }
    base = rows[REFERENCE]["tokens_per_second"]
    print(f"{'':28} {'parameters':>11} {'tokens/s':>9} {'best':>7} {'cores':>6} {'ratio':>6}")
    for name, row in rows.items():
        speed, best = row["tokens_per_second"], row["best_tokens_per_second"]
        print(
            f"{name:28} {parameters[name]:11,} {speed:9,.0f} {best:7,.0f} "
            f"{row['cores']:6.2f} {speed / base:6.2f}"
        )
    result: dict[str, Any] = {
        "rows": {name: {"parameters": parameters[name], **row} for name, row in rows.items()},
        "ratio": rows[OURS]["tokens_per_second"] / base,
        "ratio_at_equal_parameters": rows[OURS_EQUAL]["tokens_per_second"] / base,
        "batch": [options.batch, PRESET.context_length],
        "threads": options.threads,
        "runs": options.runs,
        "machine": {"processor": platform.processor() or platform.machine(),
                    "cpu_capability": torch.backends.cpu.get_cpu_capability()},
        "torch": torch.__version__,
        "code": code_version(),
    }  # fmt: skip
    write_bytes(RESULT, (json.dumps(result, indent=2) + "\n").encode())
    print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
