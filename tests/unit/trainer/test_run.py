"""The trainer's process: signals to exit codes, failures to lines, exports to folders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from shared.base.ids import IdPrefix, new_id
from shared.contracts.checkpoint_specs import ExportSpec
from shared.contracts.names import ExitCode, JobKind
from shared.contracts.run_file import RunFile, RunInput
from tests.support.training import make_run, run_training, tiny_spec, tiny_tokens

DEADLINE_SECONDS = 120


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tiny_tokens(tmp_path / "tokens")


def start(run: RunFile, folder: Path) -> subprocess.Popen[bytes]:
    path = folder / "run.json"
    path.write_text(run.model_dump_json())
    command = [sys.executable, "-m", "services.trainer.run", str(path)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def lines(run: RunFile, kind: str) -> list[dict[str, Any]]:
    if not run.events.exists():
        return []
    whole = [line for line in run.events.read_text().splitlines(True) if line.endswith("\n")]
    return [entry for entry in map(json.loads, whole) if entry["type"] == kind]


@pytest.mark.parametrize(
    ("number", "code", "checkpoints"),
    [
        (signal.SIGTERM, ExitCode.DRAINED, 1),
        (signal.SIGUSR1, ExitCode.PAUSED, 1),
        (signal.SIGUSR2, ExitCode.CANCELLED, 0),
    ],
)
def test_each_stop_signal_has_its_end(
    number: signal.Signals, code: ExitCode, checkpoints: int, tmp_path: Path, tokens: Path
) -> None:
    spec = tiny_spec(max_steps=1_000_000, eval_interval=1_000_000, save_interval=1_000_000)
    run = make_run(tmp_path / "run", spec, {"tokens": tokens})
    process = start(run, tmp_path / "run")
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not lines(run, "metrics"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(DEADLINE_SECONDS) == code
    saved = lines(run, "checkpoint")
    assert len(saved) == checkpoints
    assert len(list(run.spool.iterdir())) == checkpoints
    if saved:
        assert saved[0]["meta"]["step"] == lines(run, "metrics")[-1]["step"]


def test_a_users_mistake_is_one_failed_line_and_its_own_exit_code(
    tmp_path: Path, tokens: Path
) -> None:
    run = make_run(tmp_path / "run", tiny_spec(vocab_size=299), {"tokens": tokens})
    assert start(run, tmp_path / "run").wait(DEADLINE_SECONDS) == ExitCode.BAD_INPUT
    (failed,) = lines(run, "failed")
    assert failed["code"] == "bad_spec"
    assert failed["message"] == "vocab_size 299 is smaller than the tokenizer's 300."


def test_an_export_job_puts_out_one_folder(tmp_path: Path, tokens: Path) -> None:
    recording = run_training(
        make_run(tmp_path / "train", tiny_spec(max_steps=1), {"tokens": tokens})
    )
    checkpoint = Path(recording.checkpoints()[-1].path)
    identity = new_id(IdPrefix.CHECKPOINT)
    trained = make_run(tmp_path / "export", tiny_spec(), {})
    run = trained.model_copy(
        update={
            "kind": JobKind.EXPORT,
            "spec": ExportSpec(checkpoint=identity),
            "inputs": {"checkpoint": RunInput(id=identity, path=checkpoint, name="tiny")},
        }
    )
    assert start(run, tmp_path / "export").wait(DEADLINE_SECONDS) == ExitCode.DONE
    (output,) = lines(run, "output")
    assert output["meta"] == {
        "type": "export",
        "format": "huggingface",
        "checkpoint_id": identity,
    }
    assert sorted(path.name for path in Path(output["path"]).iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
