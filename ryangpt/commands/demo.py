"""`ryangpt demo`: from nothing to a chat model on this machine, with figures to check."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import IO, Annotated, Any

import typer
from rich.console import Console

from ryangpt.client import Client
from ryangpt.commands.embedded import (
    ApiPort,
    DataDir,
    InferencePort,
    announce,
    changed_settings,
    run_platform,
)
from ryangpt.commands.recipes import submit_recipe
from ryangpt.displays import duration, make_display
from ryangpt.embedded import Platform
from ryangpt.following import Jobs, failures, follow
from ryangpt.held_out import HeldOutAnswers, ask_all, held_out_questions
from ryangpt.recipes import Changes, load_recipe
from ryangpt.signals import StopRequests
from ryangpt.terminal import Session
from shared.base.errors import JobFailedError, UnavailableError
from shared.contracts.names import TERMINAL_STATES, ArtifactType

RECIPE = "quickstart"
QUESTIONS = (
    "Hello",
    "What is your name?",
    "What does os.path.join do?",
    "What is the json module for?",
    "What does math.sqrt do?",
)
PROMPT = "Return a list of"
NUM_HELD_OUT = 20
LOAD_SECONDS = 60.0
POLL_SECONDS = 0.25


def register(app: typer.Typer) -> None:
    """Add `demo`."""
    app.command("demo", rich_help_panel="This machine")(demo)


def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Stop everything after the answers and exit.")
    ] = False,
    data_dir: DataDir = None,
    api_port: ApiPort = None,
    inference_port: InferencePort = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write the figures as JSON to standard output.")
    ] = False,
) -> None:
    """Start everything, train the quickstart recipe, and talk to the model it makes."""
    settings = changed_settings(data_dir=data_dir, api_port=api_port, inference_port=inference_port)
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    log = ProcessLog()
    platform = Platform(settings, on_line=log.line, on_note=console.print)
    log.open = lambda: (platform.data_dir / "demo.log").open("a", encoding="utf-8")

    def use() -> None:
        token = settings.api_token.get_secret_value()
        session = Session(url=platform.url, token=token, as_json=as_json)
        with session.client:
            Demonstration(platform, session).run()
        if not once:
            announce(platform, console)
            platform.watch()

    console.print("Starting Redis, API, inference, tokenizer worker and trainer worker ...")
    try:
        with StopRequests() as requests:
            run_platform(platform, requests, console, use)
            interrupted = requests.count > 0
    finally:
        log.close()
    if once and interrupted:
        raise typer.Exit(130)


class ProcessLog:
    """Writes the processes' lines to a file of the data folder, once there is one."""

    open: Callable[[], IO[str]]

    def __init__(self) -> None:
        self._file: IO[str] | None = None

    def line(self, name: str, line: str) -> None:
        """Write one line."""
        if self._file is None:
            self._file = self.open()
        self._file.write(f"{name:<9} | {line}\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class Demonstration:
    """The demo's steps against a platform that is up."""

    def __init__(self, platform: Platform, session: Session) -> None:
        self._platform = platform
        self._session = session
        self._client = session.client
        self._console = session.notes

    def run(self) -> None:
        """Train, ask, measure and print; JobFailedError when a job has not succeeded."""
        started = time.monotonic()
        jobs = self._train()
        base, chat = jobs["train"], jobs["chat"]
        for job in (base, chat):
            self._wait_until_served(job.spec["model"])
        self._say(f"\nTrained in {duration(time.monotonic() - started)}. Asking the chat model:\n")
        for question in QUESTIONS:
            answer = self._client.chat(chat.spec["model"], question, temperature=0, max_tokens=160)
            self._say(f"  > {question}\n    {_indented(answer)}")
        completion = self._client.complete(base.spec["model"], PROMPT, temperature=0, max_tokens=40)
        self._say(f"\nThe base model goes on:\n  {PROMPT}{_indented(_text_of(completion))}")
        held_out = self._ask_held_out_questions(jobs)
        figures = self._client.metrics(base.id).series["validation"][-1].values
        self._report(jobs, figures, held_out)

    def _train(self) -> Jobs:
        pipeline_id = self._unfinished_pipeline()
        if pipeline_id:
            self._say(f"Going on with {pipeline_id}, which an earlier demo began.")
        else:
            pipeline_id = submit_recipe(self._session, load_recipe(RECIPE), Changes()).id

        def fetch() -> Jobs:
            self._platform.check()
            return self._client.pipeline(pipeline_id).jobs

        with make_display(self._console) as display:
            jobs = follow(self._client, fetch, display)
        if failed := failures(jobs):
            raise JobFailedError("; ".join(failed))
        return jobs

    def _unfinished_pipeline(self) -> str | None:
        for pipeline in self._client.pipelines():
            states = [job.state for job in pipeline.jobs.values()]
            if pipeline.name == RECIPE and not TERMINAL_STATES.issuperset(states):
                return pipeline.id
        return None

    def _wait_until_served(self, model: str) -> None:
        """Inference polls for new versions; wait until it has loaded the one to be served."""
        wanted = (model, self._client.model(model).served_version)
        token = self._platform.settings.api_token.get_secret_value()
        deadline = time.monotonic() + LOAD_SECONDS
        with Client(self._platform.inference_url, token=token) as inference:
            while wanted not in _loaded(inference):
                self._platform.check()
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        f"Inference has not loaded {model} after {LOAD_SECONDS:.0f} s."
                    )
                time.sleep(POLL_SECONDS)

    def _ask_held_out_questions(self, jobs: Jobs) -> HeldOutAnswers:
        questions = held_out_questions(
            self._client,
            jobs["questions"].outputs[ArtifactType.DATASET],
            validation_fraction=jobs["question-tokens"].spec["validation_fraction"],
            count=NUM_HELD_OUT,
        )
        self._say(f"\n{len(questions)} questions that the model has never seen:\n")
        return ask_all(
            self._client,
            jobs["chat"].spec["model"],
            questions,
            on_answer=lambda q, a: self._say(f"  > {q}\n    {_indented(a)}"),
        )

    def _report(self, jobs: Jobs, figures: dict[str, float], held_out: HeldOutAnswers) -> None:
        self._say(
            f"\nHeld-out text: {figures['bits_per_byte']:.3f} bits per byte on "
            f"{figures['validation_bytes']:,.0f} bytes.\n"
            f"Held-out questions: {held_out.stopped} of {held_out.count} answers stop by "
            f"themselves, {held_out.repetitive} repeat four words three times.\n"
            f"Reports: ryangpt report {jobs['train'].id} | ryangpt report {jobs['chat'].id}"
        )
        if self._session.as_json:
            self._session.emit(
                {
                    "jobs": {key: job.id for key, job in jobs.items()},
                    "bits_per_byte": figures["bits_per_byte"],
                    "validation_bytes": figures["validation_bytes"],
                    "held_out": asdict(held_out),
                }
            )

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False)


def _loaded(inference: Client) -> list[tuple[str, int]]:
    models: list[dict[str, Any]] = inference.http.json("GET", "/health/ready")["models"]
    return [(model["name"], model["version"]) for model in models]


def _text_of(completion: dict[str, Any]) -> str:
    text: str = completion["choices"][0]["text"]
    return text


def _indented(text: str) -> str:
    return text.strip("\n").replace("\n", "\n    ")
