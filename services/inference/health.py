"""/health/live, /health/ready and /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from services.inference.responses import FailedModel, Liveness, Readiness, ServedModel
from services.inference.service import InferenceService
from shared.base.clock import rfc3339
from shared.base.errors import UnavailableError

PUBLIC_PATHS = frozenset({"/health/live", "/health/ready"})


def health_router(service: InferenceService) -> APIRouter:
    """The routes over one service."""
    router = APIRouter(tags=["operation"])

    @router.get("/health/live", operation_id="live")
    async def live() -> Liveness:
        """Whether the engine's loop turns; if not, restart the process."""
        _require_alive(service)
        return Liveness(status="ok")

    @router.get("/health/ready", operation_id="ready")
    async def ready() -> Readiness:
        """Whether requests are taken: attention has passed its self-test and the engine runs.

        That no model is published yet, or that a newer version is refused, shows in the body and
        does not make the service unready.
        """
        _require_alive(service)
        return Readiness(
            status="ok",
            **service.runtime.describe(),
            models=[
                ServedModel(
                    name=model.name,
                    version=model.version,
                    sha256=model.pointer.manifest_sha256,
                    stage=model.stage,
                )
                for model in service.models.models()
            ],
            failures=[
                FailedModel(
                    name=failure.pointer.model,
                    version=failure.pointer.version,
                    reason=failure.reason,
                    at=rfc3339(failure.at),
                )
                for failure in service.models.failures()
            ],
        )

    @router.get(
        "/metrics",
        operation_id="metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return router


def _require_alive(service: InferenceService) -> None:
    if not service.is_alive:
        raise UnavailableError("The engine does not respond.", code="engine_stalled")
