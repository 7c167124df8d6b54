"""What an operator may ask of the running service."""

from __future__ import annotations

from fastapi import APIRouter, Response

from services.inference.service import InferenceService


def admin_router(service: InferenceService) -> APIRouter:
    """The routes over one service. To pin a version or go back to one, ask the platform's API:
    its pointer is what every replica follows."""
    router = APIRouter(prefix="/admin", tags=["operation"])

    @router.post("/reload", operation_id="reload", status_code=202, response_class=Response)
    async def reload() -> Response:
        """Read the published models now instead of at the next poll."""
        service.watcher.wake()
        return Response(status_code=202)

    return router
