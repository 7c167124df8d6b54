"""The whole platform started as a user starts it: `ryangpt up` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ryangpt import Client
from tests.support.s3_servers import free_port
from tests.support.waiting import wait_until

RYANGPT = str(Path(sys.executable).with_name("ryangpt"))
START_SECONDS = 180.0
STOP_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningPlatform:
    """A platform that is up."""

    process: subprocess.Popen[bytes]
    addresses: dict[str, str]
    """What `ryangpt up --json` printed."""
    environment: dict[str, str]
    log: Path

    @property
    def url(self) -> str:
        return self.addresses["url"]

    def client(self) -> Client:
        return Client(self.url)

    def ryangpt(self, *arguments: str, succeeds: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command against this platform, with `--json`."""
        done = subprocess.run(
            [RYANGPT, *arguments, "--json", "--url", self.url],
            env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=280,
        )  # fmt: skip
        if succeeds:
            assert done.returncode == 0, f"{done.stderr}\n{self.last_log_lines()}"
        return done

    def result(self, *arguments: str) -> Any:
        """The JSON document that a command prints."""
        return json.loads(self.ryangpt(*arguments).stdout)

    def processes(self) -> list[psutil.Process]:
        """Everything that runs on this platform's behalf, `up` itself included."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def interrupt(self) -> int:
        """Send Ctrl-C and return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(STOP_SECONDS)

    def last_log_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-60:])


@contextmanager
def running_platform(folder: Path, **variables: str) -> Iterator[RunningPlatform]:
    """Start `ryangpt up` on free ports with its data in `folder`; at the end nothing is left."""
    environment = _environment(folder, variables)
    log = folder.with_name(f"{folder.name}.log")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [RYANGPT, "up", "--json"],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=output,
            cwd=folder.parent,
        )  # fmt: skip
    assert process.stdout is not None
    started: list[psutil.Process] = []
    try:
        with process.stdout:
            line = process.stdout.readline()  # ends when the process does
        assert line, f"`ryangpt up` did not come up:\n{log.read_text(errors='replace')}"
        platform = RunningPlatform(
            process=process, addresses=json.loads(line), environment=environment, log=log
        )
        started = platform.processes()
        yield platform
    finally:
        process.kill()
        process.wait()
        assert_gone(started)


def _environment(folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RYANGPT_")}
    ports = {
        "RYANGPT_API_PORT": str(free_port()), "RYANGPT_INFERENCE_PORT": str(free_port()),
    }  # fmt: skip
    return {**clean, "RYANGPT_DATA_DIR": str(folder), "COLUMNS": "200", **ports, **variables}


def assert_gone(processes: list[psutil.Process]) -> None:
    """Wait until none of the processes runs any more."""
    what = "no process of the platform is left"
    wait_until(lambda: not still_running(processes), what, seconds=10.0)


def still_running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended."""
    return [process for process in processes if process.is_running() and _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    """A zombie has ended; whoever adopted it has not asked yet."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
