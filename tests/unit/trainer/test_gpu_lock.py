"""One training job a GPU, among processes that share nothing but a folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import pytest

from services.trainer import gpu_lock
from services.trainer.gpu_lock import lock_gpu
from shared.contracts.progress import NoticeLine, PhaseLine, ProgressMessage

HOLDER = """
import sys
from pathlib import Path
from services.trainer.gpu_lock import lock_gpu
index = lock_gpu(Path(sys.argv[1]), sys.argv[2:], report=print, stopping=lambda: True)
print(index, flush=True)
sys.stdin.read()
"""


@contextmanager
def other_job(folder: Path, *uuids: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), *uuids],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def must_not_wait(line: ProgressMessage) -> None:
    pytest.fail(f"waits: {line}")


def test_each_job_takes_the_first_gpu_that_is_free(tmp_path: Path) -> None:
    with (
        other_job(tmp_path, "GPU-a", "GPU-b", "GPU-c") as (_, first),
        other_job(tmp_path, "GPU-a", "GPU-b", "GPU-c") as (_, second),
    ):
        assert (first, second) == ("0", "1")
        uuids = ["GPU-a", "GPU-b", "GPU-c"]
        assert lock_gpu(tmp_path, uuids, report=must_not_wait, stopping=lambda: False) == 2


def test_a_job_waits_until_another_has_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_lock, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(gpu_lock, "SIGN_OF_LIFE_SECONDS", 0.05)
    lines: list[ProgressMessage] = []
    with other_job(tmp_path, "GPU-a") as (process, held):
        assert held == "0"

        def report(line: ProgressMessage) -> None:
            lines.append(line)
            if len(lines) == 4:
                Timer(0.0, process.kill).start()

        assert lock_gpu(tmp_path, ["GPU-a"], report=report, stopping=lambda: False) == 0
    assert lines[0] == NoticeLine(
        message=f"The GPU is taken by other training jobs (locks in {tmp_path}); this one waits."
    )
    assert set(map(type, lines[1:])) == {PhaseLine}


def test_a_job_that_is_asked_to_end_waits_no_longer(tmp_path: Path) -> None:
    with other_job(tmp_path, "GPU-a") as (_, held):
        assert held == "0"
        lines: list[ProgressMessage] = []
        assert lock_gpu(tmp_path, ["GPU-a"], report=lines.append, stopping=lambda: True) is None
        assert lines == []
