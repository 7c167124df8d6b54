"""Looking at jobs and steering them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from ryangpt.client import Client
from ryangpt.commands.watching import jobs_of, watch_jobs
from ryangpt.displays import details
from ryangpt.following import Figures
from ryangpt.terminal import Session, command
from shared.base.files import write_bytes
from shared.base.ids import IdPrefix, is_id
from shared.contracts.jobs import JobView
from shared.contracts.names import TERMINAL_STATES, JobKind, JobState
from shared.contracts.views import EventType

PANEL = "Jobs"
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job.")]
AnyId = Annotated[str, typer.Argument(metavar="ID", help="Id of a job or a pipeline.")]


def register(app: typer.Typer) -> None:
    """Add the commands about jobs."""
    for name, function in (
        ("jobs", list_jobs),
        ("job", show_job),
        ("watch", watch),
        ("events", show_events),
        ("logs", show_logs),
        ("cancel", cancel),
        ("pause", pause),
        ("resume", resume),
        ("retry", retry),
        ("plot", plot),
        ("report", show_report),
    ):
        command(app, name, rich_help_panel=PANEL)(function)


def list_jobs(
    session: Session,
    state: Annotated[JobState | None, typer.Option("--state", help="Only these.")] = None,
    kind: Annotated[JobKind | None, typer.Option("--kind", help="Only these.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 20,
) -> None:
    """List jobs, newest first."""
    found = session.client.jobs(state=state, kind=kind)
    session.show_table(
        [job for job, _ in zip(found, range(limit), strict=False)],
        ("id", "kind", "name", "state", "progress", "created"),
        lambda job: (
            job.id,
            job.kind,
            job.name,
            job.state,
            details(job, Figures()).removeprefix(job.state).strip(),
            _local(job.created_at),
        ),
    )


def show_job(session: Session, job_id: JobId) -> None:
    """Show one job."""
    job = session.client.job(job_id)
    lines = [
        f"{job.id}  {job.kind}  {job.name}",
        details(job, Figures()),
        f"created {_local(job.created_at)}, started {_local(job.started_at)}, "
        f"ended {_local(job.finished_at)}, attempt {job.attempt}",
    ]
    lines += [f"input  {name}: {value}" for name, value in job.inputs.items()]
    lines += [f"output {name}: {value}" for name, value in job.outputs.items()]
    if job.error:
        lines.append(f"{job.error.code}: {job.error.message} {job.error.hint or ''}".strip())
    session.show(job, *lines)


def watch(session: Session, identifier: AnyId) -> None:
    """Show the progress of a job or pipeline until it ends; Ctrl-C leaves it running."""
    watch_jobs(session, identifier, lambda: jobs_of(session, identifier))


def show_events(
    session: Session,
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
    after: Annotated[int, typer.Option("--after", min=0, help="Only later ones.")] = 0,
) -> None:
    """Print what a job has told; with --json one document a line."""
    client = session.client
    tail = client.events(job_id, after=after) if follow else client.past_events(job_id, after=after)
    for event in tail:
        if session.as_json:
            session.emit_line(event)
        else:
            shown = " ".join(f"{key}={value}" for key, value in event.data.items())
            session.out.print(f"{event.seq} {event.type} {shown}", markup=False)


def show_logs(
    session: Session,
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
) -> None:
    """Print the lines that a job's process wrote."""
    if follow:
        for event in session.client.events(job_id):
            if event.type is EventType.LOG:
                _print_log_line(session, event.data["line"])
        return
    for line in session.client.logs(job_id):
        _print_log_line(session, line)


def _print_log_line(session: Session, line: str) -> None:
    if session.as_json:
        session.emit_line({"line": line})
    else:
        session.out.print(line, markup=False)


def cancel(session: Session, identifier: AnyId) -> None:
    """Cancel a job, or every job of a pipeline that has not ended."""
    _ask(session, identifier, Client.cancel)


def pause(session: Session, identifier: AnyId) -> None:
    """Let a job write a checkpoint and stop until it is resumed."""
    _ask(session, identifier, Client.pause)


def resume(session: Session, identifier: AnyId) -> None:
    """Let a paused job go on."""
    _ask(session, identifier, Client.resume)


def _ask(session: Session, identifier: str, wish: Callable[[Client, str], JobView]) -> None:
    jobs = list(jobs_of(session, identifier).values())
    if is_id(identifier, IdPrefix.PIPELINE):
        jobs = [job for job in jobs if job.state not in TERMINAL_STATES]
    answers = [wish(session.client, job.id) for job in jobs]
    session.show(answers, *(f"{job.id} {job.state}, wanted: {job.desired}" for job in answers))


def retry(session: Session, job_id: JobId) -> None:
    """Submit an ended job anew, from its last checkpoint if it has one."""
    job = session.client.retry(job_id)
    session.show(job, f"{job.id} {job.state}")


def plot(
    session: Session,
    job_id: JobId,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path(
        "loss.svg"
    ),
) -> None:
    """Write a job's loss curves as SVG."""
    write_bytes(output, session.client.plot(job_id).encode())
    session.show({"path": str(output)}, str(output))


def show_report(
    session: Session,
    job_id: JobId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write instead of printing.")
    ] = None,
) -> None:
    """Print a finished run's report (Markdown)."""
    text = session.client.report(job_id)
    if output is not None:
        write_bytes(output, text.encode())
    shown = {"report": text} if output is None else {"path": str(output)}
    session.show(shown, text if output is None else str(output))


def _local(moment: datetime | None) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else "-"
