"""Runs the trainer in this process on a small token set and keeps what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from services.trainer.loop import Outcome
from services.trainer.training import Outside, train
from shared.base.ids import IdPrefix, new_id
from shared.contracts.names import JobKind
from shared.contracts.progress import CheckpointLine, MetricsLine, NoticeLine, ProgressMessage
from shared.contracts.run_file import RunFile, RunInput
from shared.contracts.training_specs import FinetuneSpec, TrainSpec
from shared.jobs.program import publish_folder
from tests.support.models import write_documents

TINY: dict[str, Any] = {
    "model": "tiny",
    "context_length": 16,
    "num_layers": 2,
    "d_model": 64,
    "num_heads": 2,
    "d_ff": 96,
    "batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_steps": 20,
    "lr": 3e-3,
    "min_lr": 3e-4,
    "warmup_steps": 2,
    "log_interval": 1,
    "eval_interval": 10,
    "save_interval": 1000,
    "eval_tokens": 200,
    "sample_prompts": ["learn"],
    "sample_tokens": 4,
    "device": "cpu",
}


@dataclass
class Interruption:
    """Asked at each look whether to stop; `looks` counts cancellation looks."""

    stop_after_steps: int | None = None
    cancel_after_looks: int | None = None
    steps: int = 0
    looks: int = 0

    def cancelled(self) -> bool:
        self.looks += 1
        return self.cancel_after_looks is not None and self.looks > self.cancel_after_looks

    def stopping(self) -> bool:
        return self.stop_after_steps is not None and self.steps >= self.stop_after_steps


@dataclass
class Recording:
    """What a run put out."""

    outcome: Outcome | None = None
    lines: list[ProgressMessage] = field(default_factory=list)

    def losses(self) -> list[float]:
        return [line.values["loss"] for line in self.metrics("train")]

    def metrics(self, series: str) -> list[MetricsLine]:
        return [x for x in self.lines if isinstance(x, MetricsLine) and x.series == series]

    def checkpoints(self) -> list[CheckpointLine]:
        return [line for line in self.lines if isinstance(line, CheckpointLine)]

    def notices(self) -> list[str]:
        return [line.message for line in self.lines if isinstance(line, NoticeLine)]


def patterned_documents(count: int, *, seed: int, vocab_size: int = 300) -> list[list[int]]:
    """Documents with something to learn: each counts up from a random id in steps of 1 to 3."""
    generator = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        first, stride = int(generator.integers(3, 60)), int(generator.integers(1, 4))
        length = int(generator.integers(8, 40))
        documents.append([*(3 + (first + stride * i) % (vocab_size - 3) for i in range(length)), 0])
    return documents


def tiny_spec(**changes: Any) -> TrainSpec:
    return TrainSpec(tokens=new_id(IdPrefix.DATASET), **{**TINY, **changes})


def tiny_tokens(folder: Path) -> Path:
    """A token set of some 60 training and 8 validation documents."""
    return write_documents(folder, patterned_documents(60, seed=1), patterned_documents(8, seed=2))


def make_run(
    folder: Path,
    spec: TrainSpec | FinetuneSpec,
    inputs: dict[str, Path],
    *,
    resume: Path | None = None,
    num_threads: int = 1,
) -> RunFile:
    """A run folder, as the supervisor would make it."""
    (folder / "spool").mkdir(parents=True)
    (folder / "outputs").mkdir()
    kind = JobKind.TRAIN if isinstance(spec, TrainSpec) else JobKind.FINETUNE
    return RunFile(
        job_id=new_id(IdPrefix.JOB),
        kind=kind,
        attempt=1,
        token=1,
        spec=spec,
        inputs={
            name: RunInput(id=f"ds_{path.name}", path=path, name=name)
            for name, path in inputs.items()
        },
        resume=resume,
        spool=folder / "spool",
        outputs=folder / "outputs",
        events=folder / "events.jsonl",
        num_threads=num_threads,
        slot_locks=folder / "slots",
        code_version="test",
    )


def run_training(
    run: RunFile,
    *,
    interruption: Interruption | None = None,
    on_line: Callable[[ProgressMessage], None] = lambda line: None,
) -> Recording:
    """Train in this process."""
    recording, interruption = Recording(), interruption or Interruption()

    def report(line: ProgressMessage) -> None:
        recording.lines.append(line)
        if isinstance(line, MetricsLine) and line.series == "train":
            interruption.steps = line.step
        on_line(line)

    outside = Outside(report=report, publish=publish_folder, interruption=interruption)
    assert isinstance(run.spec, TrainSpec | FinetuneSpec)
    recording.outcome = train(run, run.spec, outside)
    return recording
