"""Progress on a terminal: a bar for each job, or plain lines where there is no terminal."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ryangpt.following import Figures
from shared.contracts.jobs import JobView
from shared.contracts.names import JobState

LINE_SECONDS = 10.0
"""Time between two plain lines about a job whose phase stays the same."""

_STYLES = {
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.CANCELLED: "red",
    JobState.RUNNING: "cyan",
}


class BarDisplay:
    """A live bar a job; remarks scroll by above them. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[details]}"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> BarDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, key: str, job: JobView, figures: Figures) -> None:
        """Move the job's bar."""
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(key, total=None, details="")
        done = job.state is JobState.SUCCEEDED
        style = _STYLES.get(job.state, "dim")
        self._progress.update(
            self._tasks[key],
            description=f"[{style}]{escape(key)}[/]",
            total=max(job.progress.total_steps, 1),
            completed=max(job.progress.total_steps, 1) if done else job.progress.step,
            details=escape(details(job, figures)),
        )

    def remark(self, key: str, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(f"[bold]{escape(key)}[/] {escape(text)}")


class LineDisplay:
    """A line when a job's state or phase changes, and now and then while it stays."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> LineDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, key: str, job: JobView, figures: Figures) -> None:
        """Print a line if there is something to say."""
        position = f"{job.state} {job.progress.phase}"
        before, at = self._shown.get(key, ("", 0.0))
        running = job.state is JobState.RUNNING
        if position == before and not (running and time.monotonic() - at > LINE_SECONDS):
            return
        self._shown[key] = (position, time.monotonic())
        self._console.print(escape(f"{key}: {details(job, figures)}"))

    def remark(self, key: str, text: str) -> None:
        """Print the remark."""
        self._console.print(escape(f"{key}: {text}"))


def make_display(console: Console) -> BarDisplay | LineDisplay:
    """Bars on a terminal, lines elsewhere."""
    return BarDisplay(console) if console.is_terminal else LineDisplay(console)


def details(job: JobView, figures: Figures) -> str:
    """State, phase, step, loss, speed and time left in one line; what is unknown is left out."""
    if job.reused_job_id:
        return f"{job.state}, reused from {job.reused_job_id}"
    progress = job.progress
    running = job.state is JobState.RUNNING
    parts = [progress.phase or str(job.state) if running else str(job.state)]
    if progress.total_steps and (running or figures.loss is not None):
        parts.append(f"{progress.step:,}/{progress.total_steps:,}")
    if figures.loss is not None:
        parts.append(f"loss {figures.loss:.3f}")
    if running and progress.tokens_per_second:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if running and progress.eta_seconds is not None:
        parts.append(f"{duration(progress.eta_seconds)} left")
    if running and progress.message:
        parts.append(progress.message)
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `5 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
