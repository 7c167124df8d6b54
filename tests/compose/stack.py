"""The compose file on a real engine, under a project name and a port of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

from ryangpt import Client
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
FILES = ("docker-compose.yml", "compose.cpu.yml")
TAG = "compose-test"
LOCAL_S3_IMAGES = ("pgsty/minio:latest", "minio/minio:latest", "quay.io/minio/minio:latest")
BUILD_SECONDS, UP_SECONDS, COMMAND_SECONDS = 2400, 600, 300


def say(text: str) -> None:
    """To the terminal, past pytest's capture: these tests take minutes."""
    sys.stderr.write(f"compose: {text}\n")
    sys.stderr.flush()


def require_engine() -> None:
    """Skip, saying so loudly, where no engine answers."""
    if shutil.which("docker") is None:
        reason = "there is no `docker` on the PATH"
    else:
        asked = run(["docker", "info", "--format", "{{.ServerVersion}}"], check=False)
        composed = run(["docker", "compose", "version"], check=False)
        if asked.returncode == 0 and composed.returncode == 0:
            say(f"Docker engine {asked.stdout.strip()}, {composed.stdout.strip()}")
            return
        failed = asked if asked.returncode else composed
        reason = (failed.stderr.strip() or "docker failed").splitlines()[-1]
    say(f"SKIPPED, NOTHING IS TESTED: no Docker engine with Compose answers here ({reason})")
    pytest.skip(f"no Docker engine with Compose: {reason}")


def run(
    command: list[str],
    *,
    check: bool = True,
    seconds: float = COMMAND_SECONDS,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, cwd=ROOT, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=seconds,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, (
            f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
    return done


def s3_image() -> str:
    """The image of the object store: the one asked for, the compose file's, or one that is here."""
    if chosen := os.environ.get("RYANGPT_S3_IMAGE"):
        return chosen
    services = yaml.safe_load((ROOT / FILES[0]).read_text())["services"]
    default: str = services["s3"]["image"].removeprefix("${RYANGPT_S3_IMAGE:-").removesuffix("}")
    if _has(default) or run(["docker", "pull", "-q", default], check=False).returncode == 0:
        return default
    for name in LOCAL_S3_IMAGES:
        if _has(name):
            say(f"NOT TESTED with the default S3 image, which is out of reach, but with {name}")
            return name
    pytest.fail(f"the S3 image {default} cannot be pulled; RYANGPT_S3_IMAGE names another one")


def _has(image: str) -> bool:
    return run(["docker", "image", "inspect", image], check=False).returncode == 0


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One project of the compose file."""

    project: str
    port: int
    s3: str
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def compose(
        self, *arguments: str, check: bool = True, seconds: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        files = [part for name in FILES for part in ("-f", name)]
        clean = {name: "" for name in os.environ if name.startswith("RYANGPT_")}
        return run(
            ["docker", "compose", "-p", self.project, *files, *arguments],
            check=check,
            seconds=seconds,
            environment={
                **clean,
                "RYANGPT_API_PORT": str(self.port), "RYANGPT_S3_IMAGE": self.s3,
                "RYANGPT_TAG": TAG, "RYANGPT_NUM_THREADS": "1", **self.variables,
            },
        )  # fmt: skip

    def build(self) -> float:
        return self._timed("build", "init", "tokenizer", "trainer", "inference")

    def up(self) -> float:
        """Start everything and wait until it is healthy; return the seconds it took."""
        return self._timed("up", "-d", "--no-build", "--wait", "--wait-timeout", str(UP_SECONDS))

    def _timed(self, *arguments: str) -> float:
        started = time.monotonic()
        done = self.compose(*arguments, check=False, seconds=BUILD_SECONDS)
        assert done.returncode == 0, f"{done.stderr[-3000:]}\n{self.logs()[-3000:]}"
        return time.monotonic() - started

    def down(self) -> None:
        self.compose("down", "-v", "--remove-orphans", "-t", "5", check=False)

    def logs(self, *services: str) -> str:
        options = ("--no-log-prefix", "--no-color", "--tail", "200")
        return self.compose("logs", *options, *services, check=False).stdout

    def container(self, service: str) -> dict[str, Any]:
        """What the engine says of a service's container."""
        name = self.compose("ps", "-a", "-q", service).stdout.strip()
        document: dict[str, Any] = json.loads(run(["docker", "inspect", name]).stdout)[0]
        return document

    def wait_until_healthy(self, service: str) -> None:
        def is_healthy() -> bool:
            state = self.container(service)["State"]
            return bool(state["Running"] and state["Health"]["Status"] == "healthy")

        wait_until(is_healthy, f"{service} is healthy", seconds=300.0, poll=0.5)

    @cached_property
    def token(self) -> str:
        """As a user finds it: in the log of init, once."""
        (line,) = [line for line in self.logs("init").splitlines() if "API token (" in line]
        return line.rpartition(": ")[2].strip()

    def client(self) -> Client:
        return Client(self.url, token=self.token)
