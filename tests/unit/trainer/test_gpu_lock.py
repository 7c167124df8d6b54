"""One training job a GPU, among processes that share nothing but a folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import pytest

from services.trainer import gpu_lock
from services.trainer.gpu_lock import all_taken, lock_gpus, wait_for_gpus
from shared.contracts.progress import NoticeLine, PhaseLine, ProgressMessage

UUIDS = ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]
HOLDER = """
import sys
from pathlib import Path
from services.trainer.gpu_lock import lock_gpus
print(lock_gpus(Path(sys.argv[1]), sys.argv[3:], int(sys.argv[2])), flush=True)
sys.stdin.read()
"""


@contextmanager
def other_job(
    folder: Path, uuids: list[str], count: int = 1
) -> Iterator[tuple[Callable[[], None], str]]:
    """A process that holds GPUs: what kills it, and the indices it has got."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(count), *uuids],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.kill, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def must_not_wait(line: ProgressMessage) -> None:
    pytest.fail(f"waits: {line}")


def test_each_job_takes_the_first_gpus_that_are_free(tmp_path: Path) -> None:
    with other_job(tmp_path, UUIDS) as (_, first), other_job(tmp_path, UUIDS, 2) as (_, second):
        assert (first, second) == ("[0]", "[1, 2]")
        assert lock_gpus(tmp_path, UUIDS, 1) == [3]


def test_a_job_that_finds_too_few_holds_none(tmp_path: Path) -> None:
    with other_job(tmp_path, UUIDS, 3) as (_, held):
        assert held == "[0, 1, 2]"
        assert lock_gpus(tmp_path, UUIDS, 2) == []
        with other_job(tmp_path, UUIDS) as (_, other):
            assert other == "[3]"


def test_a_job_waits_until_another_has_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_lock, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(gpu_lock, "SIGN_OF_LIFE_SECONDS", 0.05)
    lines: list[ProgressMessage] = []
    with other_job(tmp_path, UUIDS, 3) as (kill, _):

        def report(line: ProgressMessage) -> None:
            lines.append(line)
            if len(lines) == 4:
                Timer(0.0, kill).start()

        indices = wait_for_gpus(
            lambda: lock_gpus(tmp_path, UUIDS, 2),
            taken="They are taken.",
            report=report,
            stopping=lambda: False,
        )
        assert indices == [0, 1]
    assert lines[0] == NoticeLine(message="They are taken.")
    assert set(map(type, lines[1:])) == {PhaseLine}


def test_a_job_that_is_asked_to_end_waits_no_longer() -> None:
    assert wait_for_gpus(list, taken="", report=must_not_wait, stopping=lambda: True) == []


@pytest.mark.parametrize(
    ("wanted", "seen", "sentence"),
    [
        (1, 1, "The GPU is taken by another training job (locks in /locks); this one waits."),
        (
            2,
            4,
            "Fewer than 2 of 4 GPUs are free of other training jobs (locks in /locks); "
            "this one waits.",
        ),
    ],
)
def test_the_reason_names_what_is_waited_for(wanted: int, seen: int, sentence: str) -> None:
    assert all_taken(Path("/locks"), wanted, seen) == sentence
