"""The skeleton of a job's process, as a real process."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shared.base.settings import child_environment
from shared.contracts.data_specs import IngestSpec
from shared.contracts.names import ExitCode, JobKind
from shared.contracts.progress import (
    PROGRESS_LINE,
    FailedLine,
    MetricsLine,
    NoticeLine,
    ProgressLine,
)
from shared.contracts.run_file import RunFile
from shared.jobs.program import SIGNAL_OF_STOP, Reporter, Stop, publish_folder
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

PROGRAM = """
import errno, time
from shared.base.errors import InvalidInputError, JobFailedError
from shared.contracts.names import ExitCode, FailureCode
from shared.contracts.progress import PhaseLine
from shared.jobs.program import run_program

def main(run, reporter, stop):
    reporter.send(PhaseLine(phase="ready"))
    {body}

run_program(main)
"""
WAIT_FOR_STOP = """
    while stop.requested is None: time.sleep(0.01)
    return stop.requested.exit_code
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.json"
    run = RunFile(
        job_id="job_1",
        kind=JobKind.INGEST,
        attempt=1,
        token=1,
        spec=IngestSpec(source="python_docs"),
        inputs={},
        spool=tmp_path / "spool",
        outputs=tmp_path / "outputs",
        events=tmp_path / "events.jsonl",
        num_threads=1,
        slot_locks=tmp_path / "slots",
        code_version="test",
    )
    path.write_text(run.model_dump_json())
    return path


def start(run_file: Path, body: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body), str(run_file)],
        env=child_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(run_file: Path) -> list[object]:
    events = run_file.with_name("events.jsonl").read_bytes().splitlines()
    return [PROGRESS_LINE.validate_json(line) for line in events]


def finish(run_file: Path, body: str) -> tuple[int, str]:
    process = start(run_file, body)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def test_returned_code_is_the_exit_code(run_file: Path) -> None:
    assert finish(run_file, "return ExitCode.DONE") == (0, "")


@pytest.mark.parametrize("stop", list(Stop))
def test_each_stop_signal_is_remembered(run_file: Path, stop: Stop) -> None:
    process = start(run_file, WAIT_FOR_STOP)
    wait_until(run_file.with_name("events.jsonl").exists, "the program", seconds=60)
    process.send_signal(SIGNAL_OF_STOP[stop])
    process.communicate(timeout=60)
    assert process.returncode == stop.exit_code


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            'JobFailedError("no text", code=FailureCode.BAD_SPEC, hint="add some")',
            FailedLine(code="bad_spec", message="no text", hint="add some"),
        ),
        ('InvalidInputError("odd")', FailedLine(code="bad_data", message="odd", hint=None)),
        (
            'OSError(errno.ENOSPC, "No space left on device", "/data/x")',
            FailedLine(
                code="storage_full",
                message="The worker's disk is full while writing /data/x.",
                hint="Free some space in the data folder, then retry the job.",
            ),
        ),
    ],
)
def test_what_a_user_can_act_on_is_explained(run_file: Path, error: str, line: FailedLine) -> None:
    code, _ = finish(run_file, f"raise {error}")
    assert code == ExitCode.BAD_INPUT
    assert lines_of(run_file)[-1] == line


@pytest.mark.parametrize("body", ["return ExitCode.DONE", 'raise JobFailedError("no", code="x")'])
def test_full_disk_that_takes_no_line_has_an_exit_code(run_file: Path, body: str) -> None:
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("this machine has no /dev/full")
    run = RunFile.model_validate_json(run_file.read_bytes())
    run_file.write_text(run.model_copy(update={"events": full}).model_dump_json())
    assert finish(run_file, body)[0] == ExitCode.DISK_FULL


@pytest.mark.parametrize("error", ['OSError(errno.EIO, "broken disk")', 'KeyError("x")'])
def test_other_errors_crash_loudly(run_file: Path, error: str) -> None:
    code, errors = finish(run_file, f"raise {error}")
    assert code == 1
    assert "Traceback" in errors
    assert len(lines_of(run_file)) == 1


def test_missing_argument_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "services.tokenizer.run"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 1
    assert answer.stderr == "usage: python -m services.tokenizer.run RUN_FILE\n"


def test_lines_of_several_threads_do_not_mix(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path / "events")

    def send(thread: int) -> None:
        for step in range(200):
            reporter.send(ProgressLine(step=step, total_steps=200, message=f"{thread}" * 500))

    threads = [threading.Thread(target=send, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [PROGRESS_LINE.validate_json(raw) for raw in (tmp_path / "events").open("rb")]
    assert len(lines) == 800
    for number in range(4):
        steps = [line.step for line in lines if line.message == f"{number}" * 500]
        assert steps == list(range(200))


def test_non_finite_metrics_become_a_notice(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path / "events")
    values = {"loss": math.nan, "lr": 0.5, "grad_norm": math.inf}
    reporter.send(MetricsLine(series="train", step=7, tokens=70, values=values))
    lines = [PROGRESS_LINE.validate_json(raw) for raw in (tmp_path / "events").open("rb")]
    message = "At step 7 (train): loss is nan, grad_norm is inf; left out of the curve."
    assert lines == [
        NoticeLine(level="warning", message=message),
        MetricsLine(series="train", step=7, tokens=70, values={"lr": 0.5}),
    ]


def test_folder_is_published_by_one_rename(tmp_path: Path) -> None:
    temporary, final = tmp_path / ".step", tmp_path / "step"
    (temporary / "deep").mkdir(parents=True)
    (temporary / "deep" / "file").write_text(json.dumps({"step": 1}))
    publish_folder(temporary, final)
    assert json.loads((final / "deep" / "file").read_text()) == {"step": 1}
    assert not temporary.exists()
    temporary.mkdir()
    with pytest.raises(FileExistsError):
        publish_folder(temporary, final)
