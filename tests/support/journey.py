"""The way from a text file to a chat answer, as a user of the command line goes it."""

from __future__ import annotations

import json
import pydoc_data.topics
from pathlib import Path
from typing import Any

from ryangpt.embedded import WORKERS
from shared.contracts.names import JobKind
from tests.support.platforms import RunningPlatform
from tests.support.waiting import wait_until

TINY = Path(__file__).parents[1] / "e2e" / "tiny.yaml"
NUM_PARAMETERS = 512 * 64 + 2 * (4 * 64**2 + 2 * 64 * 128 + 2 * 64) + 64
TRAIN_STEPS, CHAT_STEPS = 24, 20


def write_corpus(path: Path, *, max_chars: int = 200_000) -> Path:
    """Some hundred kilobytes of English: the language reference that every CPython carries."""
    path.write_text("\n\n".join(pydoc_data.topics.topics.values())[:max_chars], "utf-8")
    return path


def run_tiny(platform: RunningPlatform, corpus: Path) -> dict[str, Any]:
    """Run the recipe and return its jobs by key."""
    jobs: dict[str, Any] = platform.result("run", str(TINY), "--data", str(corpus))
    assert {key: job["state"] for key, job in jobs.items()} == dict.fromkeys(jobs, "succeeded")
    return jobs


def check_training(platform: RunningPlatform, jobs: dict[str, Any]) -> None:
    """Steps, curves, checkpoints, report and plot of both training jobs are there and agree."""
    for key, steps in (("train", TRAIN_STEPS), ("chat", CHAT_STEPS)):
        job = jobs[key]
        assert (job["progress"]["step"], job["attempt"]) == (steps, 1)
        with platform.client() as client:
            series = client.metrics(job["id"]).series
            checkpoints = client.checkpoints(job["id"])
        assert [point.step for point in series["train"]] == list(range(4, steps + 1, 4))
        assert [point.step for point in series["validation"]] == [steps // 2, steps]
        losses = [point.values["validation_loss"] for point in series["validation"]]
        assert losses[1] < losses[0]
        assert [(c.step, c.final, c.num_parameters) for c in checkpoints] == [
            (steps // 2, False, NUM_PARAMETERS), (steps, True, NUM_PARAMETERS),
        ]  # fmt: skip
        assert job["outputs"]["checkpoint"] == checkpoints[-1].id
        assert job["id"] in platform.result("report", job["id"])["report"]


def check_answers(platform: RunningPlatform) -> None:
    """Both models are served, and the same seed gives the same answer."""
    wait_until_served(platform, "tiny")
    wait_until_served(platform, "tiny-chat")
    question = ["chat", "Hello", "--max_tokens", "16", "--seed", "7"]
    answers = [platform.result(*question) for _ in range(2)]
    assert answers[0]["choices"][0]["message"] == answers[1]["choices"][0]["message"]
    assert answers[0]["choices"][0]["message"]["role"] == "assistant"
    assert answers[0]["model"] == "tiny-chat"
    assert 1 <= answers[0]["usage"]["completion_tokens"] <= 16
    arguments = ["complete", "The", "--max_tokens", "12", "--min_tokens", "12"]
    completion = platform.result(*arguments, "--temperature", "0")
    assert (completion["model"], completion["usage"]["completion_tokens"]) == ("tiny", 12)
    streamed = platform.ryangpt(*arguments, "--temperature", "0", "--model", "tiny-chat")
    assert json.loads(streamed.stdout)["model"] == "tiny-chat"


def wait_until_served(platform: RunningPlatform, model: str) -> None:
    """Inference polls for new versions."""
    with platform.client() as client:
        wait_until(
            lambda: model in {served["id"] for served in client.served_models()},
            f"{model} is served",
            seconds=60.0,
        )


def check_second_run(platform: RunningPlatform, corpus: Path, first: dict[str, Any]) -> None:
    """Data jobs are reused, training is not, and what it makes becomes version 2."""
    second = run_tiny(platform, corpus)
    reused = {key: job["reused_job_id"] for key, job in second.items()}
    data = {JobKind.INGEST, JobKind.TOKENIZE}
    expected = {key: job["id"] if job["kind"] in data else None for key, job in first.items()}
    assert reused == expected
    models = {model["name"]: model for model in platform.result("models")}
    assert models["tiny"]["served_version"] == max(v["version"] for v in models["tiny"]["versions"])
    assert models["tiny"]["versions"][0]["job_id"] == second["train"]["id"]


def check_workers(platform: RunningPlatform) -> None:
    """Each worker shows itself once, idle."""
    with platform.client() as client:
        workers = client.workers()
    names = sorted(worker.id.split("-")[0] for worker in workers if worker.alive)
    assert names == sorted(WORKERS)
