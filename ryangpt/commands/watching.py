"""Showing jobs until they end, for every command that starts or watches some."""

from __future__ import annotations

from collections.abc import Callable

import typer

from ryangpt.displays import make_display
from ryangpt.following import Jobs, failures, follow
from ryangpt.terminal import Session
from shared.base.ids import IdPrefix, is_id
from shared.contracts.jobs import JobView

DETACHED = 130
"""Exit status after Ctrl-C: the jobs go on, so nothing has succeeded or failed yet."""


def jobs_of(session: Session, identifier: str) -> Jobs:
    """The jobs of a pipeline by key, or one job by its id."""
    if is_id(identifier, IdPrefix.PIPELINE):
        return session.client.pipeline(identifier).jobs
    return {identifier: session.client.job(identifier)}


def watch_jobs(session: Session, identifier: str, fetch: Callable[[], Jobs]) -> Jobs:
    """Show progress until all jobs have ended; return them.

    Exits with 130 after Ctrl-C, saying how to go on, and with 1 when a job has not succeeded.
    """
    try:
        with make_display(session.notes) as display:
            jobs = follow(session.client, fetch, display)
    except KeyboardInterrupt:
        session.err.print(
            f"\nDetached; {identifier} goes on.\n"
            f"  watch   ryangpt watch {identifier}\n  cancel  ryangpt cancel {identifier}"
        )
        raise typer.Exit(DETACHED) from None
    if session.as_json:
        session.emit(_single(jobs))
    if failed := failures(jobs):
        for line in failed:
            session.err.print(f"Error: {line}", markup=False)
        raise typer.Exit(1)
    return jobs


def _single(jobs: Jobs) -> Jobs | JobView:
    values = list(jobs.values())
    return values[0] if len(values) == 1 and values[0].id in jobs else dict(jobs)
