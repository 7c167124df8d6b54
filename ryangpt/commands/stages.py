"""`ryangpt ingest | tokenize | train | finetune | export`: one command a kind, from its spec."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from ryangpt.commands.watching import watch_jobs
from ryangpt.spec_options import build_job, option_parameters
from ryangpt.terminal import Session, command
from shared.contracts.jobs import SPEC_OF_KIND
from shared.contracts.names import JobKind

_REQUEST_OPTIONS = {
    "label": (
        str | None,
        None,
        typer.Option("--label", help="The job's name in lists; by default its kind."),
    ),
    "priority": (int, 0, typer.Option("--priority", help="Higher runs first.")),
    "fresh": (
        bool,
        False,
        typer.Option("--fresh", help="Run even if an equal data job has already succeeded."),
    ),
    "validate_only": (
        bool,
        False,
        typer.Option("--validate_only", help="Check and estimate only; submit nothing."),
    ),
    "detach": (
        bool,
        False,
        typer.Option("--detach", help="Return at once instead of showing progress."),
    ),
}


def register(app: typer.Typer) -> None:
    """Add one command for each kind of job."""
    for kind, spec in SPEC_OF_KIND.items():
        command(app, kind.value, rich_help_panel="Stages")(_stage(kind, spec.__doc__ or ""))


def _stage(kind: JobKind, help_text: str) -> Any:
    def run(session: Session, **values: Any) -> None:
        request = {name: values.pop(name) for name in _REQUEST_OPTIONS}
        if kind is JobKind.INGEST:
            values["upload"] = _uploaded(session, values["upload"])
        job = build_job(
            kind,
            values,
            name=request["label"],
            priority=request["priority"],
            fresh=request["fresh"],
        )
        if request["validate_only"]:
            session.emit(session.client.validate(job))
            return
        created = session.client.submit(job)
        if request["detach"]:
            session.show(created, f"{created.id} {created.state}")
            return
        watch_jobs(session, created.id, lambda: {created.id: session.client.job(created.id)})

    run.__doc__ = help_text
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_SESSION, *option_parameters(SPEC_OF_KIND[kind]), *_request_parameters()]
    )
    return run


def _uploaded(session: Session, value: str | None) -> str | None:
    """An upload's id; a path to a file is uploaded first."""
    if value is None or not Path(value).is_file():
        return value
    return session.client.upload(Path(value)).id


_SESSION = inspect.Parameter("session", inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _request_parameters() -> list[inspect.Parameter]:
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[annotation, option],
            default=default,
        )
        for name, (annotation, default, option) in _REQUEST_OPTIONS.items()
    ]
