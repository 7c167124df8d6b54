"""What a checkpoint of the 12.5M model costs the training beside it.

    python -m benchmarks.checkpoint_stall [--steps 24] [--every 4] [--batch 1] [--threads 1]

The real loop, snapshot, writer and folder, on synthetic tokens. After every few steps a checkpoint
is taken; when its folder is there, another process stores it as the supervisor would (digests, and
a copy in a local object store). Printed: how long training stops for one (snapshot copied, writing
goes on beside it), and the part in which its one thread computes, which is what stays on an idle
machine; beside them the time that one copy of as many bytes in one piece takes just before;
how long it also waits for the one before, as checkpoints follow closely here; how long it would
stop if it wrote the folder itself; and step times while a checkpoint is being written or uploaded
beside those in between. Two shared cores decide the latter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.baselines.gpu_training import byte_tokenizer
from benchmarks.baselines.synthetic_run import SEED, SyntheticRun
from services.trainer.checkpoint import TrainerState, environment_of, make_state, write_checkpoint
from services.trainer.checkpoint_writer import CheckpointWriter
from services.trainer.data import DataOrder
from services.trainer.gauge import Machine
from services.trainer.loop import Hooks, Position, Trainer
from services.trainer.plan import Plan
from services.trainer.schedule import Schedule
from services.trainer.snapshot import Snapshot
from services.trainer.team import ALONE, TeamLoss
from shared.base.files import write_bytes
from shared.base.version import code_version
from shared.contracts.model_config import ModelConfig
from shared.contracts.progress import MetricsLine, ProgressMessage
from shared.jobs.program import publish_folder
from shared.text.tokenizer import Tokenizer

RESULT = Path(__file__).parent / "results" / "checkpoint_stall.json"
UPLOAD = """
import shutil, sys
from pathlib import Path
from shared.storage.folders import describe_folder
folder, target = map(Path, sys.argv[1:])
describe_folder(folder)
shutil.copytree(folder, target)
"""


@dataclass
class Saves:
    """Takes checkpoints and notes the times."""

    run: SyntheticRun
    folder: Path
    snapshot: Snapshot
    writer: CheckpointWriter
    tokenizer: Tokenizer = field(default_factory=byte_tokenizer)
    stalls: list[float] = field(default_factory=list)
    computing: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    bounds: list[float] = field(default_factory=list)
    blocking: list[float] = field(default_factory=list)
    uploads: list[subprocess.Popen[bytes]] = field(default_factory=list)
    writing: bool = False
    steps: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    """Seconds of each step, those beside a checkpoint under True."""
    began: float = 0.0
    began_busy: bool = False

    def __post_init__(self) -> None:
        kept = (*self.snapshot.weights.values(), *self.snapshot.optimizer_state.values())
        self.source = torch.ones(sum(tensor.numel() for tensor in kept))
        self.target = torch.zeros_like(self.source)

    def begin_step(self) -> None:
        """A step begins now; a save before it is no part of it."""
        self.began, self.began_busy = time.perf_counter(), self.busy

    def end_step(self, line: ProgressMessage) -> None:
        """At each step's one line of metrics: a step is beside what was under way at either end."""
        if isinstance(line, MetricsLine):
            seconds = time.perf_counter() - self.began
            self.steps[self.began_busy or self.busy].append(seconds)
            self.begin_step()

    def save(self, position: Position, best: bool, final: bool) -> None:
        """As a training session does it."""
        del best, final
        began = time.perf_counter()
        self.writer.wait()
        self.waits.append(time.perf_counter() - began)
        self.bounds.append(self.copied_in_one_piece())
        began, computed = time.perf_counter(), time.thread_time()
        self.snapshot.take(position.step)
        state = self.state(position)
        self.writing = True
        self.writer.start(lambda: self.write(self.folder / f"step-{position.step}", state))
        self.stalls.append(time.perf_counter() - began)
        self.computing.append(time.thread_time() - computed)
        self.begin_step()

    def copied_in_one_piece(self) -> float:
        """Seconds to copy as many bytes as the snapshot has, which nothing can undercut."""
        began = time.perf_counter()
        self.target.copy_(self.source)
        return time.perf_counter() - began

    def write(self, folder: Path, state: TrainerState) -> None:
        """In the writer's thread."""
        began = time.perf_counter()
        write_checkpoint(
            folder,
            config=self.run.config,
            snapshot=self.snapshot,
            state=state,
            tokenizer=self.tokenizer,
            publish=publish_folder,
        )
        self.blocking.append(time.perf_counter() - began)
        self.writing = False
        target = folder.with_name(f"stored-{folder.name}")
        command = [sys.executable, "-c", UPLOAD, str(folder), str(target)]
        self.uploads.append(subprocess.Popen(command))

    def state(self, position: Position) -> TrainerState:
        """What a checkpoint's state.json says."""
        return make_state(
            position,
            stage="pretrain",
            tokenizer=self.tokenizer,
            tokens_id="synthetic",
            spec={},
            code_version=code_version(),
            environment=environment_of(device="cpu", dtype=torch.float32, compiled=False),
        )

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written or uploaded."""
        return self.writing or any(process.poll() is None for process in self.uploads)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train, saving now and then."""
    run = SyntheticRun(ModelConfig(), options.batch, torch.device("cpu"))
    run.train(1)  # the optimizer has its state, the kernels their buffers
    with CheckpointWriter() as writer:
        saves = Saves(run, folder, Snapshot(run.model, run.optimizer, step=1), writer)
        saves.begin_step()
        trainer(run, saves, options).run()
    for process in saves.uploads:
        process.wait()
    return {
        "stalls": saves.stalls,
        "computing": saves.computing,
        "bounds": saves.bounds,
        "waits": saves.waits,
        "writes": saves.blocking,
        "busy": saves.steps[True],
        "idle": saves.steps[False],
    }


def trainer(run: SyntheticRun, saves: Saves, options: argparse.Namespace) -> Trainer:
    """The loop, with the hooks of this measurement."""
    total = run.position.step + options.steps
    plan = Plan(
        batch_size=run.batch_size,
        accumulation=1,
        total_steps=total,
        schedule=Schedule(shape="constant", peak=6e-4, low=6e-5, warmup_steps=0, total_steps=total),
        max_grad_norm=1.0,
        log_interval=1,
        eval_interval=1000,
        save_interval=options.every,
    )
    hooks = Hooks(
        report=saves.end_step,
        evaluate=lambda step: None,
        save=saves.save,
        roll_back=lambda: 0,
        cancelled=lambda: False,
        stopping=lambda: False,
    )
    return Trainer(
        model=run.model,
        optimizer=run.optimizer,
        loss=TeamLoss(run.model, run.loss, ALONE),
        data=run.data,
        order=DataOrder(seed=SEED, num_sequences=run.data.num_sequences),
        plan=plan,
        position=run.position,
        hooks=hooks,
        machine=Machine(device=run.device, flops_per_token=1, peak_flops=None),
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        found = measure(options, Path(name))
    idle = statistics.median(found["idle"] or found["busy"])
    busy = sorted(found["busy"])
    rows = {
        "training stops for a checkpoint, median ms": 1000 * statistics.median(found["stalls"]),
        "training stops for a checkpoint, longest ms": 1000 * max(found["stalls"]),
        "of which this thread computes, median ms": 1000 * statistics.median(found["computing"]),
        "one copy of as many bytes, median ms": 1000 * statistics.median(found["bounds"]),
        "stops over that, median": statistics.median(
            stall / bound for stall, bound in zip(found["stalls"], found["bounds"], strict=True)
        ),
        "longest wait for the checkpoint before ms": 1000 * max(found["waits"]),
        "writing the folder (beside training) ms": 1000 * statistics.median(found["writes"]),
        "median step, nothing beside, ms": 1000 * idle,
        "median step beside, over that": statistics.median(busy) / idle if busy else None,
        "slowest step beside, over that": busy[-1] / idle if busy else None,
        "steps beside": len(busy),
    }
    for key, value in rows.items():
        print(f"{key:48} {value if value is None else round(value, 3)}")
    result = {"rows": rows, "times": found, "batch": options.batch, "threads": options.threads,
              "torch": torch.__version__, "code": code_version()}  # fmt: skip
    write_bytes(RESULT, (json.dumps(result, indent=2) + "\n").encode())
    print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
