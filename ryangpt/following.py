"""Watching jobs until they end: polls the API, keeps the newest figures, tells a display.

Survives a restart of the API; knows nothing of how the display looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ryangpt.client import RECONNECT_SECONDS, Client
from ryangpt.transport import UNREACHABLE, ApiError
from shared.contracts.jobs import JobView
from shared.contracts.names import TERMINAL_STATES, JobState
from shared.contracts.views import EventType, EventView

POLL_SECONDS = 1.0

Jobs = Mapping[str, JobView]
"""By the name under which they are shown: the pipeline's key, or the job's id."""


@dataclass(slots=True, kw_only=True)
class Figures:
    """What is known of one job beyond its row."""

    seen: int = 0
    """Number of the newest event read."""
    loss: float | None = None
    """Newest training loss."""
    validation: dict[str, float] | None = None
    """Newest evaluation."""


class Display(Protocol):
    """Where progress is shown."""

    def update(self, key: str, job: JobView, figures: Figures) -> None:
        """Show where a job stands."""

    def remark(self, key: str, text: str) -> None:
        """Show something that happened once."""


def follow(client: Client, fetch: Callable[[], Jobs], display: Display) -> Jobs:
    """Report on the jobs that `fetch` returns until all have ended; return their last state.

    Raises ApiError when the server refuses, or stays out of reach for a minute.
    """
    figures: dict[str, Figures] = {}
    last_contact = time.monotonic()
    while True:
        try:
            jobs = fetch()
            for key, job in jobs.items():
                known = figures.setdefault(key, Figures())
                _read_events(client, key, job, known, display)
                display.update(key, job, known)
            last_contact = time.monotonic()
            if all(job.state in TERMINAL_STATES for job in jobs.values()):
                return jobs
        except ApiError as error:
            lost = time.monotonic() - last_contact
            if error.code != UNREACHABLE or lost > RECONNECT_SECONDS:
                raise
        time.sleep(POLL_SECONDS)


def _read_events(
    client: Client, key: str, job: JobView, figures: Figures, display: Display
) -> None:
    if figures.seen < job.seq:
        for event in client.past_events(job.id, after=figures.seen):
            figures.seen = event.seq
            _take_in(key, event, figures, display)


def _take_in(key: str, event: EventView, figures: Figures, display: Display) -> None:
    data = event.data
    if event.type is EventType.METRICS:
        if data.get("series") == "train":
            figures.loss = data["values"].get("loss", figures.loss)
        else:
            figures.validation = data["values"]
            display.remark(key, _evaluation_line(data["step"], data["values"]))
    elif event.type is EventType.SAMPLE:
        display.remark(key, f"step {data['step']}: {data['prompt']!r} -> {data['text']!r}")
    elif event.type is EventType.NOTICE:
        display.remark(key, data["message"])


def _evaluation_line(step: int, values: Mapping[str, float]) -> str:
    listed = (f"{name.replace('_', ' ')} {_figure(value)}" for name, value in values.items())
    return f"step {step}: {', '.join(listed)}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def failures(jobs: Jobs) -> list[str]:
    """One line for each job that has not succeeded."""
    lines = []
    for key, job in jobs.items():
        if job.state is not JobState.SUCCEEDED:
            reason = f": {job.error.message}" if job.error else ""
            hint = f" {job.error.hint}" if job.error and job.error.hint else ""
            name = job.id if key == job.id else f"{key} ({job.id})"
            lines.append(f"{name} {job.state}{reason}{hint}")
    return lines
