"""Jobs: submitting, listing, steering."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Body, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from services.api.context import ApiContext
from services.api.idempotency import Created, IdempotencyKey, create_once
from services.api.parameters import After, JobId, Limit
from shared.base.ids import ID_PATTERN
from shared.base.version import code_version
from shared.contracts.jobs import JobCreate, JobEstimate, JobView
from shared.contracts.names import JobKind, JobState
from shared.contracts.views import Page
from shared.db.repositories.jobs import get_job
from shared.jobs.life.requests import request_cancel, request_pause, request_resume
from shared.jobs.life.submission import retry, submit_job, validate_request
from shared.jobs.reading.listings import jobs_page
from shared.jobs.reading.views import job_view

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.post(
    "",
    status_code=201,
    response_model=JobView,
    responses={200: {"model": JobEstimate, "description": "With `validate_only`: it would do."}},
)
def create_job(
    context: ApiContext,
    request: Request,
    job: Annotated[JobCreate, Body()],
    validate_only: Annotated[bool, Query(description="Check the job, write nothing.")] = False,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Submit a job. It waits for its inputs, then for a worker; `Location` names it."""
    if validate_only:
        with context.database.reading() as session:
            return JSONResponse(validate_request(session, job).model_dump(mode="json"))

    def create(session: Session) -> Created:
        limit = context.settings.owner_queued_limit
        row = submit_job(session, job, code_version=code_version(), queued_limit=limit)
        view = job_view(row)
        return Created(location=f"/v1/jobs/{view.id}", document=view)

    return create_once(context, request, job, idempotency_key, create)


@router.get("")
def list_jobs(
    context: ApiContext,
    state: JobState | None = None,
    kind: JobKind | None = None,
    pipeline_id: Annotated[str | None, Query(pattern=ID_PATTERN)] = None,
    after: After = None,
    limit: Limit = 50,
) -> Page[JobView]:
    """Jobs, newest first."""
    with context.database.reading() as session:
        return jobs_page(
            session, state=state, kind=kind, pipeline_id=pipeline_id, after=after, limit=limit
        )


@router.get("/{job_id}", response_model=JobView, responses={304: {"description": "Unchanged."}})
def read_job(
    context: ApiContext,
    job_id: JobId,
    if_none_match: Annotated[str | None, Header(max_length=1000)] = None,
) -> Response:
    """One job as it is now; its ETag changes whenever anything shown here does."""
    with context.database.reading() as session:
        body = job_view(get_job(session, job_id)).model_dump_json().encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if if_none_match is not None and _matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


@router.post("/{job_id}/cancel", status_code=202)
def cancel_job(context: ApiContext, job_id: JobId) -> JobView:
    """Ask for a job to end; the step it is in is dropped. Jobs that wait for it are cancelled."""
    with context.database.transaction() as session:
        return job_view(request_cancel(session, job_id))


@router.post("/{job_id}/pause", status_code=202)
def pause_job(context: ApiContext, job_id: JobId) -> JobView:
    """Ask a job to write a checkpoint and stop until it is resumed."""
    with context.database.transaction() as session:
        return job_view(request_pause(session, job_id))


@router.post("/{job_id}/resume", status_code=202)
def resume_job(context: ApiContext, job_id: JobId) -> JobView:
    """Let a paused job go on where it stopped."""
    with context.database.transaction() as session:
        return job_view(request_resume(session, job_id))


@router.post("/{job_id}/retry", status_code=201)
def retry_job(context: ApiContext, job_id: JobId, response: Response) -> JobView:
    """Submit a failed or cancelled job anew; training goes on from its last checkpoint."""
    with context.database.transaction() as session:
        view = job_view(retry(session, job_id))
    response.headers["Location"] = f"/v1/jobs/{view.id}"
    return view


def _matches(if_none_match: str, etag: str) -> bool:
    """Weak comparison (RFC 9110, section 13.1.2); proxies may have weakened the tag."""
    candidates = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return bool(candidates & {etag, "*"})
