"""`ryangpt up` on SQLite and folders, from a text to a chat answer, and every way to end it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ryangpt import Client
from tests.support.journey import (
    TINY,
    check_answers,
    check_second_run,
    check_training,
    check_workers,
    run_tiny,
    write_corpus,
)
from tests.support.platforms import RYANGPT, RunningPlatform, assert_gone, running_platform
from tests.support.s3_servers import free_port
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    with running_platform(tmp_path_factory.mktemp("embedded") / "data") as running:
        yield running


def test_from_text_to_a_chat_answer_and_again(platform: RunningPlatform, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.txt")
    check_workers(platform)
    jobs = run_tiny(platform, corpus)
    check_training(platform, jobs)
    check_answers(platform)
    check_second_run(platform, corpus, jobs)


def test_a_second_up_on_the_same_folder_is_refused(platform: RunningPlatform) -> None:
    other_ports = {
        "RYANGPT_API_PORT": str(free_port()), "RYANGPT_INFERENCE_PORT": str(free_port()),
    }  # fmt: skip
    error = failing_up({**platform.environment, **other_ports})
    assert f"is in use by another `ryangpt up` (process {platform.process.pid})" in error


def test_reset_refuses_while_the_platform_runs(platform: RunningPlatform) -> None:
    done = subprocess.run(
        [RYANGPT, "reset", "--yes"], env=platform.environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "is in use by another `ryangpt up`" in done.stderr
    assert Path(platform.addresses["data_dir"], "version").is_file()


def test_a_port_in_use_is_one_clear_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        variables = {"RYANGPT_DATA_DIR": str(tmp_path / "data"), "RYANGPT_API_PORT": str(port)}
        error = failing_up({**os.environ, **variables})
    assert error == (
        f"Error: Port {port} on 127.0.0.1 cannot be used: Address already in use. "
        "Choose another one with --api_port or RYANGPT_API_PORT.\n"
    )


def failing_up(environment: dict[str, str]) -> str:
    done = subprocess.run(
        [RYANGPT, "up"], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def begin_endless_training(platform: RunningPlatform, folder: Path) -> str:
    """Start a run that would take for ever; return its training job once it has a checkpoint."""
    corpus = write_corpus(folder / "corpus.txt")
    pipeline = platform.result(
        "run", str(TINY), "--data", str(corpus), "--detach", "--set", "train.max_steps=1000000"
    )
    job_id: str = pipeline["jobs"]["train"]["id"]
    with platform.client() as client:
        wait_until(lambda: bool(client.checkpoints(job_id)), "a first checkpoint", seconds=120.0)
    return job_id


def assert_training_goes_on(client: Client, job_id: str, *, from_step: int) -> None:
    """The job runs again, as a further attempt, from a checkpoint at or behind `from_step`."""
    wait_until(lambda: client.job(job_id).attempt > 1, "the job is claimed again", seconds=120.0)
    wait_until(
        lambda: client.job(job_id).progress.step > from_step,
        "it is past where it was",
        seconds=120.0,
    )
    steps = [point.step for point in client.metrics(job_id).series["train"]]
    assert steps == sorted(set(steps)), "the curve is one line, without a jump back"


def test_ctrl_c_drains_and_the_next_up_goes_on(tmp_path: Path) -> None:
    with running_platform(tmp_path / "data") as platform:
        job_id = begin_endless_training(platform, tmp_path)
        processes = platform.processes()
        with platform.client() as client:
            before = client.job(job_id).progress.step
        assert platform.interrupt() == 0
        assert_gone(processes)
    with running_platform(tmp_path / "data") as platform, platform.client() as client:
        assert_training_goes_on(client, job_id, from_step=before)
        resumed = [
            event.data["state"] for event in client.past_events(job_id) if event.type == "state"
        ]
        assert resumed[-2:] == ["queued", "running"]
        client.cancel(job_id)
        assert client.wait(job_id).state == "cancelled"


def test_kill_9_leaves_no_process_and_loses_no_job(tmp_path: Path) -> None:
    quick = {"RYANGPT_TIME_FACTOR": "0.2"}
    with running_platform(tmp_path / "data", **quick) as platform:
        job_id = begin_endless_training(platform, tmp_path)
        processes = platform.processes()
        names = [" ".join(process.cmdline()) for process in processes]
        assert any("services.trainer.run" in name for name in names), "the job's process is there"
        with platform.client() as client:
            before = client.job(job_id).progress.step
        platform.process.send_signal(signal.SIGKILL)
        platform.process.wait()
        assert_gone(processes)
    with running_platform(tmp_path / "data", **quick) as platform, platform.client() as client:
        assert_training_goes_on(client, job_id, from_step=before)


def test_a_dead_process_stops_everything_and_is_named(tmp_path: Path) -> None:
    with running_platform(tmp_path / "data") as platform:
        processes = platform.processes()
        victim = next(p for p in processes if p.cmdline()[-1] == "services.inference")
        victim.kill()
        assert platform.process.wait(120) == 1
        assert_gone(processes)
        assert "The process `inference` ended unexpectedly (killed by SIGKILL)" in (
            platform.last_log_lines()
        )


def test_ctrl_c_while_starting_leaves_nothing(tmp_path: Path) -> None:
    ports = {
        "RYANGPT_API_PORT": str(free_port()), "RYANGPT_INFERENCE_PORT": str(free_port()),
    }  # fmt: skip
    environment = {**os.environ, **ports, "RYANGPT_DATA_DIR": str(tmp_path / "data")}
    with subprocess.Popen([RYANGPT, "up"], env=environment, stdout=subprocess.PIPE) as process:
        own = psutil.Process(process.pid)
        wait_until(lambda: len(own.children()) > 1, "some processes are starting")
        processes = [own, *own.children(recursive=True)]
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=120)[0].decode()
    assert (process.returncode, output.splitlines()[-1]) == (0, "Stopped.")
    assert_gone(processes)
