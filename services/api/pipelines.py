"""Pipelines: several jobs written at once, each taking what another puts out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from services.api.context import ApiContext
from services.api.idempotency import Created, IdempotencyKey, create_once
from services.api.parameters import After, Limit, PipelineId
from shared.base.version import code_version
from shared.contracts.jobs import PipelineCreate, PipelineEstimate, PipelineView
from shared.contracts.views import Page
from shared.jobs.life.submission import submit_pipeline, validate_pipeline
from shared.jobs.reading import listings

router = APIRouter(prefix="/v1/pipelines", tags=["pipelines"])


@router.post(
    "",
    status_code=201,
    response_model=PipelineView,
    responses={
        200: {"model": PipelineEstimate, "description": "With `validate_only`: it would do."}
    },
)
def create_pipeline(
    context: ApiContext,
    request: Request,
    pipeline: Annotated[PipelineCreate, Body()],
    validate_only: Annotated[bool, Query(description="Check it, write nothing.")] = False,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Submit several jobs in one transaction; `{"job": key, "output": type}` refers to one."""
    if validate_only:
        with context.database.rehearsal() as session:
            return JSONResponse(validate_pipeline(session, pipeline).model_dump(mode="json"))

    def create(session: Session) -> Created:
        limit = context.settings.owner_queued_limit
        row = submit_pipeline(session, pipeline, code_version=code_version(), queued_limit=limit)
        view = listings.read_pipeline(session, row.id)
        return Created(location=f"/v1/pipelines/{view.id}", document=view)

    return create_once(context, request, pipeline, idempotency_key, create)


@router.get("")
def list_pipelines(
    context: ApiContext, after: After = None, limit: Limit = 50
) -> Page[PipelineView]:
    """Pipelines with their jobs, newest first."""
    with context.database.reading() as session:
        return listings.pipelines_page(session, after=after, limit=limit)


@router.get("/{pipeline_id}")
def read_pipeline(context: ApiContext, pipeline_id: PipelineId) -> PipelineView:
    """One pipeline and its jobs as they are now."""
    with context.database.reading() as session:
        return listings.read_pipeline(session, pipeline_id)
