"""Two processes train as one does, stop together, and leave nobody behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.trainer.checkpoint import read_state
from services.trainer.gpu_lock import lock_gpus
from services.trainer.loop import Outcome
from shared.contracts.names import LAUNCHER, ExitCode
from shared.contracts.progress import PROGRESS_LINE, CheckpointLine, MetricsLine, ProgressMessage
from shared.contracts.run_file import RunFile
from tests.support.training import make_run, run_training, tiny_spec, tiny_tokens

PATIENCE_SECONDS = 300


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that end with the test, whatever happens."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def launch(run: RunFile, folder: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    path = folder / "run.json"
    path.write_text(run.model_dump_json())
    command = [sys.executable, "-m", LAUNCHER, "2", "services.trainer.run", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "output.log").open("wb") as log:
        processes.append(
            subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log,
                start_new_session=True,
            )
        )  # fmt: skip


def lines(run: RunFile) -> list[ProgressMessage]:
    if not run.events.exists():
        return []
    return [
        PROGRESS_LINE.validate_json(line)
        for line in run.events.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]


def losses(messages: list[ProgressMessage]) -> dict[int, float]:
    return {
        line.step: line.values["loss"]
        for line in messages
        if isinstance(line, MetricsLine) and line.series == "train"
    }


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def ranks_of(run_file: Path) -> list[int]:
    """Processes that were started with this run file, by their command lines."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(run_file) in arguments:
                found.append(int(entry.name))
    return found


@pytest.mark.timeout(900)
def test_two_stop_together_and_one_goes_on_where_they_were(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    tokens = tiny_tokens(tmp_path / "tokens")
    size = {"max_steps": 400, "eval_interval": 1000}
    alone = make_run(tmp_path / "alone", tiny_spec(**size), {"tokens": tokens})
    expected = losses(run_training(alone).lines)

    run = make_run(tmp_path / "two", tiny_spec(num_gpus=2, **size), {"tokens": tokens})
    launch(run, tmp_path / "two", started)
    output = tmp_path / "two" / "output.log"
    wait_until(
        lambda: len(losses(lines(run))) >= 5 or started[0].poll() is not None, "the first steps"
    )
    assert started[0].poll() is None, output.read_text()
    started[0].send_signal(signal.SIGTERM)
    assert started[0].wait(PATIENCE_SECONDS) == ExitCode.DRAINED, output.read_text()

    together = losses(lines(run))
    assert 5 <= len(together) < 400
    for step, loss in together.items():
        assert loss == pytest.approx(expected[step], abs=1e-6), step
    (checkpoint,) = [line for line in lines(run) if isinstance(line, CheckpointLine)]
    state = read_state(Path(checkpoint.path))
    assert (state.step, state.environment.world_size) == (max(together), 2)

    second = tiny_spec(max_steps=400, eval_interval=1000)
    resumed = run_training(
        make_run(tmp_path / "resumed", second, {"tokens": tokens}, resume=Path(checkpoint.path))
    )
    assert resumed.outcome is Outcome.FINISHED
    assert "world size was 2 and is 1" in resumed.notices()[0]
    rest = losses(resumed.lines)
    assert sorted(rest) == list(range(state.step + 1, 401))
    first_ten = sorted(rest)[:10]
    assert [rest[s] for s in first_ten] == pytest.approx([expected[s] for s in first_ten], abs=1e-6)


TEAM = """
import os, sys, time
from pathlib import Path
from services.trainer.gpu_lock import lock_gpus, wait_for_gpus
from services.trainer.team import Team
from shared.base.process import die_with_parent
die_with_parent()
team, folder, uuids = Team.join(), Path(sys.argv[1]), ["GPU-a", "GPU-b", "GPU-c"]
def attempt():
    return team.told(lock_gpus(folder, uuids, 2) if team.leads else [])
def waits(line):
    (folder / f"waits-{os.environ['WHO']}-{team.rank}").touch()
indices = wait_for_gpus(attempt, taken="", report=waits, stopping=lambda: False)
(folder / f"has-{os.environ['WHO']}-{team.rank}").write_text(str(indices[team.rank]))
time.sleep(3600)
"""


@pytest.mark.timeout(900)
def test_of_two_teams_on_too_few_gpus_one_waits_and_holds_none(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    program = tmp_path / "team.py"
    program.write_text(TEAM)
    folder = tmp_path / "locks"
    folder.mkdir()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    for who in "xy":
        started.append(
            subprocess.Popen(
                [*launcher, "--nproc-per-node=2", str(program), str(folder)],
                env={**os.environ, "OMP_NUM_THREADS": "1", "WHO": who},
            )
        )

    def told(what: str) -> dict[str, str]:
        return {path.name: path.read_text() for path in folder.glob(f"{what}-*")}

    wait_until(lambda: (len(told("has")), len(told("waits"))) == (2, 2), "one team's GPUs")
    (waiting,) = {name.split("-")[1] for name in told("waits")}
    winner = "x" if waiting == "y" else "y"
    assert told("has") == {f"has-{winner}-0": "0", f"has-{winner}-1": "1"}
    assert lock_gpus(folder, ["GPU-c"], 1) == [0]
    started["xy".index(winner)].terminate()
    wait_until(lambda: len(told("has")) == 4, "the other team's GPUs")
    assert told("has")[f"has-{waiting}-0"] == "0"
    assert told("has")[f"has-{waiting}-1"] == "1"


@pytest.mark.timeout(900)
def test_killing_the_launcher_leaves_no_rank(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    tokens = tiny_tokens(tmp_path / "tokens")
    spec = tiny_spec(num_gpus=2, max_steps=1_000_000, eval_interval=1_000_000)
    run = make_run(tmp_path / "two", spec, {"tokens": tokens})
    launch(run, tmp_path / "two", started)
    wait_until(lambda: len(losses(lines(run))) >= 1, "the first step")
    run_file = tmp_path / "two" / "run.json"
    assert len(ranks_of(run_file)) == 3
    started[0].kill()
    started[0].wait()
    wait_until(lambda: not ranks_of(run_file), "the end of all ranks")
