"""Following jobs: what is read, what is shown, and when it ends."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from ryangpt.displays import LineDisplay, details, duration
from ryangpt.following import Figures, failures, follow
from ryangpt.transport import UNREACHABLE, ApiError
from shared.contracts.jobs import JobError, JobView, Progress
from shared.contracts.names import Desired, JobKind, JobState
from shared.contracts.views import EventType, EventView

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job(state: JobState, *, seq: int = 0, **changes: Any) -> JobView:
    progress = changes.pop("progress", Progress(phase="", step=0, total_steps=0))
    view = JobView(
        id="job_1", kind=JobKind.TRAIN, name="train", state=state, desired=Desired.RUN, priority=0,
        spec={}, inputs={}, outputs={}, pipeline_id=None, pipeline_key=None, reused_job_id=None,
        attempt=1, progress=progress, error=None, seq=seq, created_at=NOW, started_at=None,
        finished_at=None,
    )  # fmt: skip
    return view.model_copy(update=changes)


def event(seq: int, type_: EventType, **data: Any) -> EventView:
    return EventView(seq=seq, type=type_, attempt=1, at=NOW, data=data)


class FakeClient:
    """Has the events of one job."""

    def __init__(self, *events: EventView) -> None:
        self.events = events
        self.asked: list[int] = []

    def past_events(self, _job_id: str, *, after: int) -> Iterator[EventView]:
        self.asked.append(after)
        return (event for event in self.events if event.seq > after)


class Recorder:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.updates: list[tuple[str, JobState, float | None]] = []
        self.remarks: list[str] = []

    def update(self, key: str, job: JobView, figures: Figures) -> None:
        self.updates.append((key, job.state, figures.loss))

    def remark(self, key: str, text: str) -> None:
        self.remarks.append(f"{key}: {text}")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ryangpt.following.time.sleep", lambda _: None)


def test_each_event_is_read_once_and_told() -> None:
    client = FakeClient(
        event(1, EventType.METRICS, series="train", step=10, values={"loss": 4.5}),
        event(2, EventType.SAMPLE, step=10, prompt="The", text=" end"),
        event(3, EventType.NOTICE, level="info", message="Some notice."),
        event(
            4,
            EventType.METRICS,
            series="validation",
            step=20,
            values={"bits_per_byte": 2.1, "validation_bytes": 132913.0},
        ),
    )
    states = iter([job(JobState.RUNNING, seq=2), job(JobState.SUCCEEDED, seq=4)])
    display = Recorder()
    last = follow(client, lambda: {"train": next(states)}, display)  # type: ignore[arg-type]
    assert last["train"].state is JobState.SUCCEEDED
    assert client.asked == [0]
    assert display.updates == [
        ("train", JobState.RUNNING, 4.5), ("train", JobState.SUCCEEDED, 4.5),
    ]  # fmt: skip
    assert display.remarks == [
        "train: step 10: 'The' -> ' end'",
        "train: Some notice.",
        "train: step 20: bits per byte 2.1, validation bytes 132,913",
    ]


def test_a_short_absence_of_the_api_is_outlasted() -> None:
    answers = iter([ApiError("gone", status_code=503, code=UNREACHABLE), job(JobState.SUCCEEDED)])

    def fetch() -> dict[str, JobView]:
        answer = next(answers)
        if isinstance(answer, ApiError):
            raise answer
        return {"a": answer}

    assert follow(FakeClient(), fetch, Recorder())["a"].state is JobState.SUCCEEDED  # type: ignore[arg-type]


def test_a_refusal_ends_it() -> None:
    def fetch() -> dict[str, JobView]:
        raise ApiError("no", status_code=404, code="not_found")

    with pytest.raises(ApiError, match="no"):
        follow(FakeClient(), fetch, Recorder())  # type: ignore[arg-type]


def test_failures_name_job_state_and_reason() -> None:
    error = JobError(code="bad_data", message="The file is empty.", hint="Send another one.")
    jobs = {"good": job(JobState.SUCCEEDED), "bad": job(JobState.FAILED, error=error)}
    assert failures(jobs) == ["bad (job_1) failed: The file is empty. Send another one."]


def test_details_leave_out_what_is_unknown() -> None:
    progress = Progress(
        phase="training", step=1200, total_steps=5000, tokens_per_second=1834.2, eta_seconds=200.0
    )
    running = job(JobState.RUNNING, progress=progress)
    assert details(running, Figures(loss=3.25)) == (
        "training  1,200/5,000  loss 3.250  1,834 tokens/s  3 min 20 s left"
    )
    assert details(job(JobState.WAITING), Figures()) == "waiting"
    reused = job(JobState.SUCCEEDED, reused_job_id="job_0")
    assert details(reused, Figures()) == "succeeded, reused from job_0"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (18600, "5 h 10 min")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_plain_lines_come_when_something_changes() -> None:
    output = io.StringIO()
    with LineDisplay(Console(file=output, width=200)) as display:
        for phase in ("loading", "loading", "training"):
            progress = Progress(phase=phase, step=0, total_steps=0)
            display.update("train", job(JobState.RUNNING, progress=progress), Figures())
        display.remark("train", "a [bold] remark")
    assert output.getvalue() == "train: loading\ntrain: training\ntrain: a [bold] remark\n"
