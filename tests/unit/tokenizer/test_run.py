"""The data program as a worker starts it: run file in, lines and folders out, exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from shared.contracts.names import ExitCode, JobKind
from shared.contracts.progress import PROGRESS_LINE, FailedLine, OutputLine, PhaseLine
from shared.contracts.run_file import RunFile, RunInput
from shared.text.token_set import TokenSplit
from tests.support.tokenizers import SENTENCES

UPLOAD = "upl_01J00000000000000000000000"
DATASET = "ds_01J00000000000000000000000"
ROOT = Path(__file__).parents[3]


def write_run(folder: Path, kind: JobKind, spec: dict[str, Any], **inputs: Path) -> RunFile:
    """A run folder as a supervisor lays it out."""
    folder.mkdir()
    run = RunFile.model_validate(
        {
            "job_id": "job_01J00000000000000000000000",
            "kind": kind,
            "attempt": 1,
            "token": 1,
            "spec": spec,
            "inputs": {
                field: RunInput(id=UPLOAD, path=path, name=path.name)
                for field, path in inputs.items()
            },
            "spool": folder / "spool",
            "outputs": folder / "outputs",
            "events": folder / "events.jsonl",
            "num_threads": 2,
            "slot_locks": folder / "slots",
            "code_version": "test",
        }
    )
    (folder / "run.json").write_text(run.model_dump_json())
    return run


def start(run: RunFile) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "services.tokenizer.run", str(run.events.parent / "run.json")]
    return subprocess.Popen(program, cwd=ROOT, start_new_session=True)


def lines_of(run: RunFile) -> list[Any]:
    return [PROGRESS_LINE.validate_json(line) for line in run.events.read_bytes().splitlines()]


def outputs_of(run: RunFile) -> dict[str, OutputLine]:
    return {line.output.value: line for line in lines_of(run) if isinstance(line, OutputLine)}


def test_text_becomes_a_dataset_and_then_tokens(tmp_path: Path) -> None:
    upload = tmp_path / "notes.txt"
    upload.write_text("\n<|endoftext|>\n".join(f"{SENTENCES[n % 5]} ({n})" for n in range(30)))
    spec = {"source": "text", "upload": UPLOAD, "name": "notes"}
    ingesting = write_run(tmp_path / "ingest", JobKind.INGEST, spec, upload=upload)
    assert start(ingesting).wait(timeout=120) == ExitCode.DONE
    dataset = outputs_of(ingesting)["dataset"]
    assert (dataset.name, dataset.meta.type) == ("notes", "dataset")
    assert Path(dataset.path) == ingesting.outputs / "dataset"

    spec = {"dataset": DATASET, "vocab_size": 300, "validation_fraction": 0.3, "name": "coded"}
    tokenizing = write_run(
        tmp_path / "tokenize", JobKind.TOKENIZE, spec, dataset=Path(dataset.path)
    )
    assert start(tokenizing).wait(timeout=120) == ExitCode.DONE
    outputs = outputs_of(tokenizing)
    assert sorted(outputs) == ["tokenizer", "tokens"]
    tokens = outputs["tokens"]
    assert tokens.name == "coded"
    assert TokenSplit(Path(tokens.path), "validation").meta == tokens.meta
    phases = [line.phase for line in lines_of(tokenizing) if isinstance(line, PhaseLine)]
    assert phases == ["learning", "encoding"]
    assert sorted(path.name for path in tokenizing.outputs.iterdir()) == ["tokenizer", "tokens"]


def test_bad_material_ends_in_a_failed_line(tmp_path: Path) -> None:
    upload = tmp_path / "notes.txt"
    upload.write_bytes(b"fine\ncaf\xe9\n")
    spec = {"source": "text", "upload": UPLOAD}
    run = write_run(tmp_path / "run", JobKind.INGEST, spec, upload=upload)
    assert start(run).wait(timeout=120) == ExitCode.BAD_INPUT
    assert lines_of(run)[-1] == FailedLine(
        code="bad_data",
        message="notes.txt is not UTF-8: byte 0xe9 at offset 8, line 2.",
        hint="Convert it, for example with: iconv -f WINDOWS-1252 -t UTF-8",
    )
    assert not (run.outputs / "dataset").exists()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, ExitCode.DRAINED),
        (signal.SIGUSR1, ExitCode.PAUSED),
        (signal.SIGUSR2, ExitCode.CANCELLED),
    ],
)
def test_a_stop_publishes_nothing(tmp_path: Path, number: int, code: ExitCode) -> None:
    upload = tmp_path / "many.jsonl"
    with upload.open("w") as file:
        for n in range(400_000):
            file.write(json.dumps({"text": f"Row {n} of a long file. " * 4}) + "\n")
    spec = {"source": "jsonl", "upload": UPLOAD}
    run = write_run(tmp_path / "run", JobKind.INGEST, spec, upload=upload)
    process = start(run)
    deadline = time.monotonic() + 60
    while not run.events.exists() or len(lines_of(run)) < 2:
        assert time.monotonic() < deadline, "the program reports no progress"
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    assert outputs_of(run) == {}
    assert not (run.outputs / "dataset").exists()
