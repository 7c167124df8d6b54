"""JSON Schemas of submissions, for forms and for people."""

from __future__ import annotations

from typing import Any, get_args

from fastapi import APIRouter

from shared.contracts.jobs import SPEC_OF_KIND, JobCreate, JobRequest
from shared.contracts.names import OUTPUTS_OF_KIND, QUEUE_OF_KIND, JobKind

router = APIRouter(prefix="/v1/schemas", tags=["jobs"])


def submission_models() -> dict[JobKind, type[JobRequest]]:
    """The contract that `POST /v1/jobs` holds a job of each kind to."""
    union, *_ = get_args(JobCreate)
    return {get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(union)}


@router.get("")
def list_schemas() -> dict[JobKind, dict[str, Any]]:
    """By kind, the JSON Schema of a job as `POST /v1/jobs` takes it."""
    return {kind: _schema(kind, model) for kind, model in submission_models().items()}


def _schema(kind: JobKind, model: type[JobRequest]) -> dict[str, Any]:
    """The model's schema, in which `x-artifact` says of an input what type of artifact it takes,
    `x-outputs` what the job puts out, and `x-queue` where it waits."""
    schema = model.model_json_schema()
    schema["x-outputs"] = sorted(OUTPUTS_OF_KIND[kind])
    schema["x-queue"] = QUEUE_OF_KIND[kind]
    spec = SPEC_OF_KIND[kind]
    fields = schema["$defs"][spec.__name__]["properties"]
    for field, artifact in spec.INPUTS.items():
        fields[field]["x-artifact"] = artifact
    return schema
