"""What must hold for a job whatever died meanwhile, read from the rows it left."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from shared.contracts.manifest import MODEL_WEIGHTS, OPTIMIZER_WEIGHTS
from shared.contracts.names import TERMINAL_STATES, JobState
from shared.contracts.views import EventType
from shared.db.repositories import checkpoints, jobs, stream
from shared.db.tables import EventRow
from shared.storage.keys import report_key
from tests.faults.cluster import Cluster

EVERYTHING = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a training job has made: equal results are equal in every bit."""

    losses: dict[int, float]
    """By step; of a step that was trained twice the later attempt's."""
    validation: dict[int, float]
    weights: str
    optimizer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """How an attempt began, and when the one before it was found to have ended."""

    attempt: int
    at: datetime
    queued_at: datetime
    resume_step: int
    """0 when the attempt begins anew."""


def claims_of(cluster: Cluster, job_id: str) -> list[Claim]:
    """Every claim of the job, in order."""
    with cluster.database.reading() as session:
        events = stream.read_events(session, job_id, after=0, limit=EVERYTHING)
    states = [event for event in events if _is_state(event)]
    return [
        Claim(
            attempt=event.attempt,
            at=event.at,
            queued_at=before.at,
            resume_step=event.data["resume_step"] or 0,
        )
        for before, event in pairwise(states)
        if event.data["state"] == JobState.RUNNING
    ]


def check_history(cluster: Cluster, job_id: str) -> None:
    """AssertionError unless the job ended once and nobody wrote under a fence that had passed."""
    with cluster.database.reading() as session:
        row = jobs.get_job(session, job_id)
        events = stream.read_events(session, job_id, after=0, limit=EVERYTHING)
        metrics = stream.read_metrics(session, job_id, after=0, limit=EVERYTHING)
        logs = stream.read_logs(session, job_id, after=0, limit=EVERYTHING)
        kept = checkpoints.list_checkpoints(session, job_id)
    states = [event for event in events if _is_state(event)]
    ends = [event.data["state"] for event in states if event.data["state"] in TERMINAL_STATES]
    assert ends == [row.state], "exactly one terminal state"
    assert states[-1].data["state"] == row.state, "and it is the last"
    claims = _claims(states)
    assert all(a.token < b.token for a, b in pairwise(claims)), "every claim raises the fence"
    assert [claim.attempt for claim in claims] == list(range(1, row.attempt + 1))
    assert all(a.token <= b.token for a, b in pairwise(events)), "no event under a passed fence"
    numbers = sorted(entry.seq for entry in (*events, *metrics, *logs))
    assert numbers == list(range(1, row.seq + 1)), "the stream has no gap and no double"
    for entry in (*metrics, *logs):
        holder = max((c for c in claims if c.seq < entry.seq), key=lambda claim: claim.seq)
        assert entry.attempt == holder.attempt, "a metric or log line of a stale attempt"
    assert {c.token for c in kept} <= {claim.token for claim in claims}
    committed = [e for e in events if e.type is EventType.CHECKPOINT]
    for event in committed:
        assert event.token == max(c.token for c in claims if c.seq < event.seq)


def result_of(cluster: Cluster, job_id: str) -> Result:
    """Curves and the digests of the last checkpoint, whose bytes in the store are verified."""
    with cluster.database.reading() as session:
        metrics = stream.read_metrics(session, job_id, after=0, limit=EVERYTHING)
        final = [row for row in checkpoints.list_checkpoints(session, job_id) if row.final]
    assert final, "a final checkpoint"  # two, when the first one's attempt died right after it
    digests = {}
    for entry in final[-1].manifest["files"]:
        with cluster.store.stream(final[-1].prefix + entry["path"]) as chunks:
            digests[entry["path"]] = hashlib.sha256(b"".join(chunks)).hexdigest()
        assert digests[entry["path"]] == entry["sha256"], "no torn checkpoint"
    points = sorted(metrics, key=lambda point: point.attempt)
    return Result(
        losses={p.step: p.values["loss"] for p in points if p.series == "train"},
        validation={p.step: p.values["validation_loss"] for p in points if p.series != "train"},
        weights=digests[MODEL_WEIGHTS],
        optimizer=digests[OPTIMIZER_WEIGHTS],
    )


def unnamed_objects(cluster: Cluster, job_id: str) -> list[str]:
    """Keys of the job's objects that belong to no checkpoint that is there."""
    folder = f"jobs/{job_id}/"
    with cluster.database.reading() as session:
        prefixes = [row.prefix for row in checkpoints.list_checkpoints(session, job_id)]
    named = (report_key(job_id), *prefixes)
    return [key for key in cluster.store.list_keys(folder) if not key.startswith(named)]


def _claims(states: Sequence[EventRow]) -> list[EventRow]:
    return [event for event in states if event.data["state"] == JobState.RUNNING]


def _is_state(event: EventRow) -> bool:
    return event.type is EventType.STATE and "desired" not in event.data
