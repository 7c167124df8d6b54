"""What a GPU does with this platform, all in one go, on a box without network.

    python -m benchmarks.gpu_check [--steps 200] [--parts training ...] [--cpu-smoke]

Each part returns facts; they are printed and written to benchmarks/results/gpu_check.json, also
when a later part fails. `--cpu-smoke` proves the script itself with tiny models on the CPU and
writes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.baselines.gpu_serving import check_serving
from benchmarks.baselines.gpu_training import check_training
from shared.base.files import write_bytes

RESULT = Path(__file__).parent / "results" / "gpu_check.json"
PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "training": check_training,
    "serving": check_serving,
}
"""By name: called with a device, `smoke` and `steps`."""


def show(facts: dict[str, Any], indent: str = "") -> None:
    """Print facts, groups of them indented."""
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            show(value, indent + "  ")
        else:
            print(f"{indent}{name:36} {value}", flush=True)


def main() -> None:
    """Run the parts and print what they found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--cpu-smoke", action="store_true")
    options = parser.parse_args()
    if not (options.cpu_smoke or torch.cuda.is_available()):
        sys.exit("There is no CUDA device here; --cpu-smoke proves this script without one.")
    device = torch.device("cpu") if options.cpu_smoke else torch.device("cuda", 0)
    steps = 10 if options.cpu_smoke else options.steps
    found: dict[str, Any] = {}
    failed = False
    for name in options.parts:
        try:
            found[name] = PARTS[name](device, smoke=options.cpu_smoke, steps=steps)
        except RuntimeError as error:  # the other parts may still tell something
            traceback.print_exc()
            found[name], failed = {"error": str(error)}, True
        show({name: found[name]})
        if not options.cpu_smoke:
            write_bytes(RESULT, (json.dumps(found, indent=2) + "\n").encode())
            print(f"wrote {RESULT}")
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
