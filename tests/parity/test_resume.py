"""20 steps equal 10, a checkpoint, a new start and 10 more: in every bit, also across kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from services.trainer.checkpoint import read_state
from services.trainer.loop import Outcome
from shared.base.errors import JobFailedError
from shared.contracts.manifest import MODEL_WEIGHTS, OPTIMIZER_WEIGHTS
from shared.contracts.names import FailureCode
from shared.contracts.progress import CheckpointLine
from shared.contracts.run_file import RunFile
from shared.model.weights import load_state
from tests.support.training import (
    Interruption,
    make_run,
    run_training,
    tiny_spec,
    tiny_tokens,
)

DEADLINE_SECONDS = 300


def same_bits(first: Path, second: Path, name: str) -> bool:
    ours, theirs = load_state(first / name), load_state(second / name)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stop_at", [1, 10, 19])
def test_twenty_steps_equal_two_halves(stop_at: int, optimizer: str, tmp_path: Path) -> None:
    tokens = tiny_tokens(tmp_path / "tokens")
    spec = tiny_spec(eval_interval=7, log_interval=1, optimizer=optimizer)
    whole = run_training(make_run(tmp_path / "whole", spec, {"tokens": tokens}))

    stop = Interruption(stop_after_steps=stop_at)
    first = run_training(make_run(tmp_path / "first", spec, {"tokens": tokens}), interruption=stop)
    assert first.outcome is Outcome.STOPPED
    middle = Path(first.checkpoints()[-1].path)
    assert read_state(middle).step == stop_at
    second = run_training(make_run(tmp_path / "second", spec, {"tokens": tokens}, resume=middle))

    assert second.outcome is Outcome.FINISHED
    assert first.losses() + second.losses() == whole.losses()
    assert [line.values for line in second.metrics("validation")][-1] == [
        line.values for line in whole.metrics("validation")
    ][-1]
    last, expected = (Path(r.checkpoints()[-1].path) for r in (second, whole))
    assert same_bits(last, expected, MODEL_WEIGHTS)
    assert same_bits(last, expected, OPTIMIZER_WEIGHTS)
    assert second.notices() == [f"Resumed at step {stop_at}, bit-identically."]


def test_a_mean_over_a_log_window_survives_a_resume(tmp_path: Path) -> None:
    tokens, spec = tiny_tokens(tmp_path / "tokens"), tiny_spec(log_interval=5, save_interval=3)
    whole = run_training(make_run(tmp_path / "whole", spec, {"tokens": tokens}))
    at_nine = tmp_path / "whole" / "spool" / "step-9"
    second = run_training(make_run(tmp_path / "second", spec, {"tokens": tokens}, resume=at_nine))
    assert second.losses() == whole.losses()[1:]


def test_resume_says_what_differs(tmp_path: Path) -> None:
    tokens = tiny_tokens(tmp_path / "tokens")
    first = make_run(tmp_path / "first", tiny_spec(max_steps=4), {"tokens": tokens})
    middle = Path(run_training(first).checkpoints()[-1].path)
    spec = tiny_spec(max_steps=6).model_copy(update={"tokens": first.spec.tokens})
    run = make_run(tmp_path / "second", spec, {"tokens": tokens}, resume=middle)
    recording = run_training(run)
    assert recording.notices() == [
        "Resumed at step 4, not bit-identical because max_steps was 4 and is 6."
    ]
    assert [line.step for line in recording.metrics("train")] == [5, 6]


def test_resume_refuses_another_optimizer(tmp_path: Path) -> None:
    tokens = tiny_tokens(tmp_path / "tokens")
    first = make_run(tmp_path / "first", tiny_spec(max_steps=2), {"tokens": tokens})
    middle = Path(run_training(first).checkpoints()[-1].path)
    spec = tiny_spec(max_steps=4, optimizer="muon")
    with pytest.raises(JobFailedError, match="adamw and this job asks for muon") as caught:
        run_training(make_run(tmp_path / "next", spec, {"tokens": tokens}, resume=middle))
    assert caught.value.code is FailureCode.BAD_SPEC


def test_resume_restores_the_thread_count(tmp_path: Path) -> None:
    tokens, spec = tiny_tokens(tmp_path / "tokens"), tiny_spec(max_steps=2)
    before = torch.get_num_threads()
    try:
        run = make_run(tmp_path / "first", spec, {"tokens": tokens}, num_threads=2)
        middle = Path(run_training(run).checkpoints()[-1].path)
        run = make_run(tmp_path / "next", spec, {"tokens": tokens}, resume=middle, num_threads=1)
        run_training(run)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def start(run: RunFile, folder: Path) -> subprocess.Popen[bytes]:
    path = folder / "run.json"
    path.write_text(run.model_dump_json())
    command = [sys.executable, "-m", "services.trainer.run", str(path)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def checkpoint_lines(events: Path) -> list[CheckpointLine]:
    if not events.exists():
        return []
    lines = [
        json.loads(line)
        for line in events.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]
    return [CheckpointLine.model_validate(line) for line in lines if line["type"] == "checkpoint"]


def test_a_killed_process_resumes_bit_identically(tmp_path: Path) -> None:
    tokens = tiny_tokens(tmp_path / "tokens")
    spec = tiny_spec(max_steps=60, save_interval=10, eval_interval=30)
    whole = make_run(tmp_path / "whole", spec, {"tokens": tokens})
    assert start(whole, tmp_path / "whole").wait(DEADLINE_SECONDS) == 0

    killed = make_run(tmp_path / "killed", spec, {"tokens": tokens})
    process = start(killed, tmp_path / "killed")
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not checkpoint_lines(killed.events):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait(DEADLINE_SECONDS) == -signal.SIGKILL

    middle = Path(checkpoint_lines(killed.events)[-1].path)
    assert 0 < read_state(middle).step <= 60
    resumed = make_run(tmp_path / "resumed", spec, {"tokens": tokens}, resume=middle)
    assert start(resumed, tmp_path / "resumed").wait(DEADLINE_SECONDS) == 0
    last, expected = (Path(checkpoint_lines(run.events)[-1].path) for run in (resumed, whole))
    assert same_bits(last, expected, MODEL_WEIGHTS)
    assert same_bits(last, expected, OPTIMIZER_WEIGHTS)
