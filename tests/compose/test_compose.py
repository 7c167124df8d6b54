"""`docker compose up` and nothing before it, on a real engine: from nothing to a chat answer, and
what may happen to it meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from ryangpt import Client
from ryangpt.recipes import Changes, build_pipeline, load_recipe
from shared.contracts.jobs import JobCreate, JobView, PipelineCreate
from shared.contracts.names import TERMINAL_STATES, JobState
from tests.compose.stack import TAG, Stack, run, say
from tests.support.journey import write_corpus
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

OURS = ("api", "tokenizer", "trainer", "inference")
SERVERS = ("postgres", "redis", "s3")
MAX_IMAGE_BYTES = {"api": 300_000_000, "tokenizer": 300_000_000}
JOB_SECONDS = 900.0
SMALL = {
    "context_length": 64, "num_layers": 2, "d_model": 64, "num_heads": 2, "d_ff": 128,
    "batch_size": 4, "max_steps": 40, "warmup_steps": 4, "log_interval": 4,
    "eval_interval": 20, "save_interval": 20, "eval_tokens": 4096, "sample_tokens": 8,
}  # fmt: skip
SMALL_CHAT = {
    "batch_size": 4, "max_steps": 20, "warmup_steps": 2, "log_interval": 4,
    "eval_interval": 10, "save_interval": 10, "eval_tokens": 4096, "sample_tokens": 8,
}  # fmt: skip
DISTURBED_SECONDS = 30
FEWEST_STEPS, MOST_STEPS = 300, 1500
"""A disturbed job has as many steps as this machine, left alone, makes in that time; but a shared
machine changes its speed by factors, so that there are bounds."""


def small_quickstart() -> PipelineCreate:
    """The quickstart's jobs, all of them, with a model that trains in a minute."""
    sets = {
        "tokens": {"vocab_size": 512},
        "questions": {"max_documents": 400},
        "train": SMALL,
        "chat": SMALL_CHAT,
    }
    changes = {(job, name): value for job, new in sets.items() for name, value in new.items()}
    return build_pipeline(load_recipe("quickstart"), Changes(job_fields=changes), {})


def finished(client: Client, pipeline_id: str) -> dict[str, JobView]:
    def states() -> set[JobState]:
        return {job.state for job in client.pipeline(pipeline_id).jobs.values()}

    wait_until(lambda: states() <= TERMINAL_STATES, "all jobs have ended", seconds=JOB_SECONDS,
               poll=1.0)  # fmt: skip
    jobs = client.pipeline(pipeline_id).jobs
    assert {key: (job.state, job.error) for key, job in jobs.items()} == dict.fromkeys(
        jobs, (JobState.SUCCEEDED, None)
    )
    return jobs


def wait_until_served(client: Client, model: str) -> None:
    wait_until(
        lambda: model in {served["id"] for served in client.served_models()},
        f"{model} is served",
        seconds=120.0,
        poll=0.5,
    )


@pytest.fixture(scope="module")
def quickstart(stack: Stack) -> dict[str, JobView]:
    """The quickstart through REST, watched by its stream of events."""
    with stack.client() as client:
        pipeline = client.submit_pipeline(small_quickstart())
        first = pipeline.jobs["docs"].id
        seen = [event.type for event in client.events(first)]  # ends with the job's last event
        assert len(seen) > 2
        return finished(client, pipeline.id)


def test_only_the_api_is_published_on_loopback_behind_its_token(stack: Stack) -> None:
    bindings = {
        service: [
            (binding["HostIp"], port)
            for port, found in stack.container(service)["NetworkSettings"]["Ports"].items()
            for binding in found or []
        ]
        for service in (*OURS, *SERVERS)
    }
    assert bindings == {**{name: [] for name in bindings}, "api": [("127.0.0.1", "8000/tcp")]}
    with httpx.Client(base_url=stack.url, trust_env=False) as nobody:
        assert nobody.get("/health/ready").json()["status"] == "ready"
        assert "<!doctype html>" in nobody.get("/").text.lower()
        assert nobody.get("/v1/jobs").status_code == 401
        assert nobody.get("/inference/v1/models").status_code == 401
    with stack.client() as client:
        names = {worker.id.split("-")[0] for worker in client.workers() if worker.alive}
    assert names == {"tokenizer", "trainer"}


@pytest.mark.parametrize("service", OURS)
def test_an_image_is_small_and_its_process_is_nobody(stack: Stack, service: str) -> None:
    container = stack.container(service)
    assert container["HostConfig"]["ReadonlyRootfs"] is True
    assert stack.compose("exec", "-T", service, "id", "-u").stdout.strip() == "10001"
    size = int(run(["docker", "image", "inspect", "-f", "{{.Size}}", container["Image"]]).stdout)
    say(f"image {service}: {size / 1e6:.0f} MB")
    assert size <= MAX_IMAGE_BYTES.get(service, size)
    has_torch = stack.compose(
        "exec", "-T", service, "python3", "-c",
        "import importlib.util as u; print(bool(u.find_spec('torch')))",
    ).stdout.strip()  # fmt: skip
    assert has_torch == str(service in ("trainer", "inference"))


def test_no_secret_stands_in_any_environment(stack: Stack) -> None:
    token = stack.token
    for service in ("init", "provision", "migrate", *OURS, *SERVERS):
        for variable in stack.container(service)["Config"]["Env"]:
            assert token not in variable
    assert token not in stack.logs(*OURS)


def test_the_quickstart_ends_in_a_chat_answer(stack: Stack, quickstart: dict[str, JobView]) -> None:
    steps = SMALL["max_steps"]
    with stack.client() as client:
        wait_until_served(client, "quickstart-chat")
        answer = client.chat("quickstart-chat", "What does os.path.join do?", max_tokens=16)
        assert isinstance(answer, str)
        series = client.metrics(quickstart["train"].id).series["train"]
    assert [point.step for point in series] == list(range(4, steps + 1, 4))


def test_an_answer_streams_through_the_api(stack: Stack, quickstart: dict[str, JobView]) -> None:
    body = {
        "model": "quickstart-chat", "stream": True, "temperature": 0, "max_tokens": 12,
        "min_tokens": 12, "messages": [{"role": "user", "content": "Hello"}],
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    headers = {"Authorization": f"Bearer {stack.token}"}
    with httpx.Client(base_url=stack.url, headers=headers, trust_env=False, timeout=120) as api:
        wait_until_served(stack.client(), "quickstart-chat")
        with api.stream("POST", "/inference/v1/chat/completions", json=body) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    assert json.loads(lines[-2])["usage"]["completion_tokens"] == 12
    assert len(lines) > 8


def test_an_upload_streams_into_the_object_store(stack: Stack, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.txt")
    with corpus.open("ab") as file:  # larger than any body that is read whole, and than a part
        file.write(b"\n\n".join([b"A line of some length that says little. " * 40] * 20_000))
    with stack.client() as client:
        upload = client.upload(corpus)
        assert upload.bytes == corpus.stat().st_size > 32_000_000
        job = client.submit(_job("ingest", source="text", upload=upload.id, max_documents=50))
        assert client.wait(job.id).state is JobState.SUCCEEDED


def test_jobs_outlive_the_restart_of_every_container(
    stack: Stack, quickstart: dict[str, JobView]
) -> None:
    """Each falls into a running job; whenever one has ended the next is submitted."""
    spec = disturbed_spec(stack, quickstart)
    with stack.client() as client:
        jobs = [client.submit(_job("train", **spec)).id]
    for service in (*SERVERS, *OURS):
        _wait_until_training(stack, jobs, spec)
        say(f"restarting {service} ...")
        stack.compose("restart", "-t", "20", service)
        stack.wait_until_healthy(service)
    _wait_until_training(stack, jobs, spec)
    say("killing trainer ...")
    stack.compose("kill", "trainer")
    stack.compose("up", "-d", "--no-build", "--wait", "trainer", seconds=600)
    with stack.client() as client:
        ended = [client.wait(job_id) for job_id in jobs]
        say(f"attempts of the jobs: {[job.attempt for job in ended]}")
        assert [(job.state, job.error) for job in ended] == [(JobState.SUCCEEDED, None)] * len(jobs)
        assert ended[-1].attempt > 1, "it was killed"
        for job in ended:
            series = client.metrics(job.id, max_points=10_000).series["train"]
            interval = spec["log_interval"]
            assert [point.step for point in series] == [interval * n for n in range(1, 101)]
        wait_until_served(client, "disturbed")


def disturbed_spec(stack: Stack, quickstart: dict[str, JobView]) -> dict[str, Any]:
    """A training job of some seconds, by the speed that was seen here."""
    with stack.client() as client:
        points = client.metrics(quickstart["train"].id).series["train"]
    tokens_per_second = median(point.values["tokens_per_second"] for point in points)
    steps_per_second = tokens_per_second / (SMALL["batch_size"] * SMALL["context_length"])
    steps = min(max(DISTURBED_SECONDS * steps_per_second, FEWEST_STEPS), MOST_STEPS)
    interval = round(steps / 100)
    say(f"jobs of {100 * interval} steps at {steps_per_second:.1f} steps/s")
    return {
        **SMALL, "model": "disturbed", "tokens": quickstart["tokens"].outputs["tokens"],
        "max_steps": 100 * interval, "log_interval": interval, "save_interval": 5 * interval,
        "eval_interval": 100 * interval,
    }  # fmt: skip


def test_down_and_up_again_keeps_token_and_models(
    stack: Stack, quickstart: dict[str, JobView]
) -> None:
    before = stack.token
    stack.compose("down", "-t", "20")
    say(f"up again in {stack.up():.1f} s")
    assert before not in stack.logs("init")
    kept = stack.compose("exec", "-T", "api", "cat", "/run/ryan-gpt/api_token").stdout.strip()
    assert kept == before
    with Client(stack.url, token=before) as client:
        wait_until_served(client, "quickstart-chat")
        assert isinstance(client.chat("quickstart-chat", "Hello", max_tokens=8), str)


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("", "Refusing to listen on 0.0.0.0 without a token"),
        ("hunter2", "RYANGPT_API_TOKEN is too weak"),
    ],
)
@pytest.mark.parametrize("service", ["api", "inference"])
def test_a_service_refuses_to_start_behind_a_weak_token(
    stack: Stack, service: str, token: str, sentence: str
) -> None:
    options = ("-e", "RYANGPT_API_TOKEN_FILE=", "-e", f"RYANGPT_API_TOKEN={token}")
    done = stack.compose("run", "--rm", "-T", "--no-deps", *options, service, check=False)
    assert done.returncode == 1
    assert f"{service}: {sentence}" in done.stderr


@pytest.mark.parametrize("part", ["platform", "servers"])
def test_a_volume_of_another_version_stops_everything_and_stays_as_it_is(
    new_stack: Stack, part: str
) -> None:
    other = Stack(project=f"{new_stack.project}-{part}", port=new_stack.port, s3=new_stack.s3)
    digests = "cd /secrets && find . -type f | sort | xargs sha256sum"
    tamper = (
        f"cd /secrets/{part} && chmod 644 format.json && "
        'echo "{\\"format\\": 7, \\"set\\": \\"x\\"}" > format.json && ' + digests
    )
    try:
        other.compose("run", "--rm", "-T", "init")
        before = other.compose("run", "--rm", "-T", "init", "sh", "-c", tamper).stdout
        refused = other.compose("up", "-d", "--no-build", check=False)
        assert refused.returncode != 0
        message = f"/secrets/{part} was written by another version of Ryan-GPT (format 7, this one"
        assert message in other.logs("init")
        assert other.compose("ps", "-q").stdout == "", "nothing else has started"
        assert other.compose("run", "--rm", "-T", "init", "sh", "-c", digests).stdout == before
    finally:
        other.down()


def test_the_images_carry_the_tag_of_this_test_only(new_stack: Stack) -> None:
    """So that a test never replaces the images of somebody's running platform."""
    images = json.loads(new_stack.compose("config", "--format", "json").stdout)["services"]
    ours = {name: images[name]["image"] for name in OURS}
    assert all(TAG in image for image in ours.values()), ours


def _job(kind: str, **spec: Any) -> JobCreate:
    job: JobCreate = TypeAdapter(JobCreate).validate_python({"kind": kind, "spec": spec})
    return job


def _wait_until_training(stack: Stack, jobs: list[str], spec: dict[str, Any]) -> None:
    """Wait until the last job makes steps; when it has ended, a new one is added and waited for."""
    with stack.client() as client:

        def is_training() -> bool:
            job = client.job(jobs[-1])
            if job.state in TERMINAL_STATES:
                assert (job.state, job.error) == (JobState.SUCCEEDED, None)
                jobs.append(client.submit(_job("train", **spec)).id)
                return False
            return job.state is JobState.RUNNING and job.progress is not None

        wait_until(is_training, "a job trains", seconds=300.0, poll=0.2)
