"""Every command of the command line against a platform that has run a pipeline."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.journey import TINY, run_tiny, wait_until_served, write_corpus
from tests.support.platforms import RunningPlatform, running_platform
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A platform, the corpus it was given, and the jobs of its one pipeline."""

    platform: RunningPlatform
    corpus: Path
    jobs: dict[str, Any]

    def result(self, *arguments: str) -> Any:
        return self.platform.result(*arguments)

    def id_of(self, key: str) -> str:
        job_id: str = self.jobs[key]["id"]
        return job_id


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("commands")
    corpus = write_corpus(folder / "corpus.txt", max_chars=60_000)
    with running_platform(folder / "data") as platform:
        yield Finished(platform=platform, corpus=corpus, jobs=run_tiny(platform, corpus))


def test_jobs_are_listed_newest_first_and_filtered(done: Finished) -> None:
    listed = [job["id"] for job in done.result("jobs")]
    assert listed == [job["id"] for job in reversed(done.jobs.values())]
    assert [job["id"] for job in done.result("jobs", "--kind", "train")] == [done.id_of("train")]
    assert len(done.result("jobs", "--limit", "2")) == 2
    assert done.result("jobs", "--state", "failed") == []
    assert done.result("job", done.id_of("chat")) == done.jobs["chat"]


def test_watching_what_has_ended_returns_at_once(done: Finished) -> None:
    pipeline_id = done.jobs["train"]["pipeline_id"]
    assert done.result("watch", pipeline_id) == done.jobs
    assert done.result("watch", done.id_of("train")) == done.jobs["train"]


def test_events_are_the_same_read_and_followed(done: Finished) -> None:
    read, followed = (
        [json.loads(line) for line in done.platform.ryangpt(*arguments).stdout.splitlines()]
        for arguments in (["events", done.id_of("train")], ["events", "-f", done.id_of("train")])
    )
    assert read == followed
    assert [event["seq"] for event in read] == list(range(1, done.jobs["train"]["seq"] + 1))
    states = [event["data"]["state"] for event in read if event["type"] == "state"]
    assert states == ["waiting", "queued", "running", "succeeded"]


def test_logs_are_the_same_read_and_followed(done: Finished) -> None:
    read = done.platform.ryangpt("logs", done.id_of("train")).stdout
    assert done.platform.ryangpt("logs", "-f", done.id_of("train")).stdout == read
    assert "pretrain" in json.loads(read.splitlines()[0])["line"]


def test_report_and_plot_are_written(done: Finished, tmp_path: Path) -> None:
    done.result("report", done.id_of("train"), "-o", str(tmp_path / "report.md"))
    assert done.id_of("train") in (tmp_path / "report.md").read_text()
    done.result("plot", done.id_of("train"), "-o", str(tmp_path / "loss.svg"))
    assert "<svg" in (tmp_path / "loss.svg").read_text()


def test_an_upload_with_known_content_is_not_sent_again(done: Finished, tmp_path: Path) -> None:
    same = tmp_path / "renamed.txt"
    same.write_bytes(done.corpus.read_bytes())
    known = done.jobs["text"]["inputs"]["upload"]
    assert done.result("upload", str(same))["id"] == known
    other = write_corpus(tmp_path / "other.txt", max_chars=1000)
    assert done.result("upload", str(other))["id"] != known
    assert [upload["filename"] for upload in done.result("uploads")] == ["other.txt", "corpus.txt"]


def test_data_can_be_looked_at_and_saved(done: Finished, tmp_path: Path) -> None:
    dataset = done.jobs["questions"]["outputs"]["dataset"]
    assert dataset in {item["id"] for item in done.result("datasets")}
    preview = done.result("preview", dataset, "-n", "2")
    assert preview["format"] == "dialogues"
    assert [row["messages"][0]["content"] for row in preview["rows"]] == ["Hello", "Hello!"]
    for artifact in (dataset, done.jobs["tokens"]["outputs"]["tokenizer"], done.id_of("export")):
        saved = done.result("download", artifact, "-o", str(tmp_path / artifact))
        assert saved
        assert all(Path(path).stat().st_size for path in saved)
    names = {path.name for path in (tmp_path / done.id_of("export")).rglob("*")}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names


def test_stages_are_commands(done: Finished) -> None:
    tokens = done.jobs["tokens"]["outputs"]["tokens"]
    estimate = done.result("train", "--model", "x", "--tokens", tokens, "--validate_only")
    assert (estimate["num_parameters"], estimate["tokens_per_step"]) == (12_496_960 - 15_488 * 320,
                                                                         32_768)  # fmt: skip
    ingested = done.result("ingest", "--source", "text", "--upload", str(done.corpus), "--name",
                           "text")  # fmt: skip
    assert (ingested["state"], ingested["reused_job_id"]) == ("succeeded", done.id_of("text"))


def test_a_job_is_paused_resumed_and_cancelled(done: Finished) -> None:
    tokens = done.jobs["tokens"]["outputs"]["tokens"]
    shape = ["--context_length", "64", "--num_layers", "2", "--d_model", "64", "--num_heads", "2"]
    endless = ["--model", "endless", "--max_steps", "1000000", "--batch_size", "4", *shape]
    job_id = done.result("train", "--tokens", tokens, *endless, "--detach")["id"]
    with done.platform.client() as client:
        wait_until(lambda: client.job(job_id).progress.step > 0, "it trains", seconds=120.0)
        assert done.result("pause", job_id)[0]["desired"] == "pause"
        wait_until(lambda: client.job(job_id).state == "paused", "it is paused", seconds=120.0)
        paused_at = client.job(job_id).progress.step
        assert done.result("resume", job_id)[0]["state"] == "queued"
        wait_until(lambda: client.job(job_id).attempt == 2, "it goes on", seconds=120.0)
        wait_until(lambda: client.job(job_id).progress.step > paused_at, "further", seconds=120.0)
    assert done.result("cancel", job_id)[0]["desired"] == "cancel"
    watched = done.platform.ryangpt("watch", job_id, succeeds=False)
    assert watched.returncode == 1
    assert json.loads(watched.stdout)["state"] == "cancelled"
    assert watched.stderr.splitlines()[-1].startswith(f"Error: {job_id} cancelled")


def test_publishing_and_pinning(done: Finished) -> None:
    first, last = (done.platform.client().checkpoints(done.id_of("chat"))[i].id for i in (0, -1))
    assert done.result("publish", "copy", last)["served_version"] == 1
    assert done.result("publish", "copy", first)["served_version"] == 2
    assert done.result("pin", "copy", "1")["pinned_version"] == 1
    assert done.result("pin", "copy")["pinned_version"] is None
    wait_until_served(done.platform, "copy")
    answer = done.result("chat", "Hello", "--model", "copy", "--max_tokens", "4")
    assert answer["model"] == "copy"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["job", "job_00000000000000000000000000"], r"job_0+"),
        (["retry", "{train}"], r"only a failed or cancelled job can be tried again"),
        (["cancel", "{train}"], r"has already succeeded"),
        (["chat", "Hello", "--model", "nonsense"], r"nonsense"),
        (["chat", "Hello", "--temperature", "-1"], r"temperature"),
        (["complete", "x", "--min_tokens", "9", "--max_tokens", "8"], r"min_tokens"),
        (["tokenize", "--dataset", "{train}"], r"dataset"),
        (["upload", "/nowhere"], r"does not exist"),
    ],
)
def test_what_cannot_work_is_one_line(done: Finished, arguments: list[str], message: str) -> None:
    filled = [argument.format(train=done.id_of("train")) for argument in arguments]
    failed = done.platform.ryangpt(*filled, succeeds=False)
    assert failed.returncode in (1, 2)
    assert failed.stdout == ""
    assert len(failed.stderr.splitlines()) == 1
    assert failed.stderr.startswith("Error: ")
    assert re.search(message, failed.stderr)


def test_a_bad_recipe_value_sends_nothing(done: Finished) -> None:
    uploads = done.result("uploads")
    failed = done.platform.ryangpt(
        "run", str(TINY), "--data", __file__, "--num_heads", "3", succeeds=False
    )
    assert "d_model 64 is not a multiple of num_heads 3" in failed.stderr
    assert done.result("uploads") == uploads
