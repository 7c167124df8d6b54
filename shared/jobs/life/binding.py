"""How one job's end moves the jobs that wait for it, all within the transaction of that end.

A job whose inputs are all there is queued; or it takes over the outputs of an equal earlier job;
or it fails, when the inputs do not fit. A job whose parent failed is cancelled, and so on down.
"""

from __future__ import annotations

import hashlib
import json
import platform
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from shared.base.errors import InvalidInputError
from shared.contracts.jobs import SPEC_OF_KIND
from shared.contracts.names import ArtifactType, Desired, FailureCode, JobKind, JobState
from shared.contracts.specs import input_field
from shared.db.repositories import artifacts, jobs, links
from shared.db.repositories.transitions import move_job
from shared.db.tables import JobRow
from shared.jobs.life.compatibility import check_inputs
from shared.jobs.life.inputs import load_metas

REUSABLE_KINDS = frozenset({JobKind.INGEST, JobKind.TOKENIZE, JobKind.EVALUATE, JobKind.EXPORT})
"""Jobs whose outputs follow from spec, inputs and code alone."""
PYTHON_SOURCES = frozenset({"python_docs", "python_qa"})
"""Ingest sources that come with the interpreter."""
OPEN_STATES = frozenset({JobState.WAITING, JobState.PAUSED})


def bind_children(session: Session, parent: JobRow, now: datetime) -> None:
    """Hand the outputs of a succeeded job to the jobs that wait for them."""
    for link in links.links_to_children(session, parent.id):
        child = jobs.lock_job(session, link.job_id)
        if child.state not in OPEN_STATES or link.field in child.resolved_inputs:
            continue
        jobs.bind_input(session, child, link.field, parent.outputs[link.output])
        if child.state is JobState.WAITING and has_all_inputs(session, child):
            release(session, child, now)


def cancel_children(session: Session, parent: JobRow, now: datetime) -> None:
    """Cancel the jobs that wait for a failed or cancelled one, and those that wait for them."""
    for link in links.links_to_children(session, parent.id):
        error = {
            "error_code": FailureCode.UPSTREAM_FAILED,
            "error_message": f"Job {parent.id} ({parent.name}), whose {link.output} is needed, "
            f"is {parent.state}.",
            "error_hint": "Retry that job first, then this one.",
        }
        child = move_job(
            session,
            link.job_id,
            sources=OPEN_STATES,
            to=JobState.CANCELLED,
            now=now,
            details=error_details(error),
            values={**error, "desired": Desired.CANCEL, "finished_at": now},
        )
        if child is not None:
            cancel_children(session, child, now)


def has_all_inputs(session: Session, row: JobRow) -> bool:
    """Whether every input that another job puts out has been bound."""
    needed = {link.field for link in links.links_of_job(session, row.id)}
    return needed <= row.resolved_inputs.keys()


def release(session: Session, row: JobRow, now: datetime) -> JobRow:
    """Let a waiting or paused job with all its inputs go on; return it as it is then."""
    spec = SPEC_OF_KIND[row.kind].model_validate(row.spec)
    try:
        check_inputs(spec, load_metas(session, row.resolved_inputs))
    except InvalidInputError as error:
        return _refuse(session, row, error, now)
    reused = reuse_earlier(session, row, now)
    if reused is not None:
        return reused
    values = {"desired": Desired.RUN, "dispatched_at": None}
    queued = move_job(
        session, row.id, sources=OPEN_STATES, to=JobState.QUEUED, now=now, values=values
    )
    return queued or jobs.get_job(session, row.id)


def reuse_earlier(session: Session, row: JobRow, now: datetime) -> JobRow | None:
    """Let a data job succeed with the outputs of an equal one; None when it has to run."""
    if row.kind not in REUSABLE_KINDS:
        return None
    row.reuse_key = reuse_key(session, row)
    session.flush()
    earlier = None if row.fresh else jobs.find_reusable(session, row.kind, row.reuse_key)
    if earlier is None:
        return None
    origin = earlier.reused_job_id or earlier.id
    done = move_job(
        session,
        row.id,
        sources={JobState.WAITING, JobState.QUEUED, JobState.PAUSED},
        to=JobState.SUCCEEDED,
        now=now,
        details={"outputs": earlier.outputs, "reused_job_id": origin},
        values={
            "outputs": earlier.outputs,
            "reused_job_id": origin,
            "desired": Desired.RUN,
            "finished_at": now,
        },
    )
    if done is not None:
        bind_children(session, done, now)
    return done


def reuse_key(session: Session, row: JobRow) -> str:
    """Digest of everything a data job's outputs follow from.

    An upload counts by its content, so that the same file sent twice is the same input; what is
    read from Python's own documentation counts by Python's version.
    """
    spec_type = SPEC_OF_KIND[row.kind]
    inputs = dict(row.resolved_inputs)
    for path, artifact_id in inputs.items():
        if spec_type.INPUTS[input_field(path)] is ArtifactType.UPLOAD:
            inputs[path] = artifacts.get_upload(session, artifact_id).sha256 or artifact_id
    document = {
        "kind": row.kind,
        "spec": {name: value for name, value in row.spec.items() if name not in spec_type.INPUTS},
        "inputs": inputs,
        "code_version": row.code_version,
    }
    if row.spec.get("source") in PYTHON_SOURCES:
        document["python"] = platform.python_version()
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def error_details(values: dict[str, Any]) -> dict[str, Any]:
    """The error columns of a row as a `state` event shows them."""
    return {
        "error": {
            "code": values["error_code"],
            "message": values["error_message"],
            "hint": values["error_hint"],
        }
    }


def _refuse(session: Session, row: JobRow, error: InvalidInputError, now: datetime) -> JobRow:
    where = f" ({error.pointer})" if error.pointer else ""
    values = {
        "error_code": FailureCode.BAD_SPEC,
        "error_message": f"{error.message}{where}",
        "error_hint": error.hint,
    }
    failed = move_job(
        session,
        row.id,
        sources=OPEN_STATES,
        to=JobState.FAILED,
        now=now,
        details=error_details(values),
        values={**values, "finished_at": now},
    )
    if failed is None:
        return jobs.get_job(session, row.id)
    cancel_children(session, failed, now)
    return failed
