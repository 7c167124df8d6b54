"""The inference service as an ASGI application: routes, errors, security, life span."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from services.inference.admin import admin_router
from services.inference.errors import install_error_handlers
from services.inference.health import PUBLIC_PATHS, health_router
from services.inference.responses import ErrorBody
from services.inference.routes import openai_router
from services.inference.service import InferenceService
from services.inference.tokenization import tokenization_router
from shared.base.http_security import SecurityMiddleware
from shared.base.openai_errors import render_openai_error
from shared.base.settings import Settings
from shared.contracts.serving import MAX_INFERENCE_BODY_BYTES

TITLE = "Ryan-GPT inference"
VERSION = "1"


def create_app(service: InferenceService, settings: Settings) -> FastAPI:
    """Build the application; the service starts and stops with it."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title=TITLE,
        version=VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={"default": {"model": ErrorBody, "description": "An error"}},
    )
    install_error_handlers(app)
    app.include_router(openai_router(service))
    app.include_router(tokenization_router(service))
    app.include_router(health_router(service))
    app.include_router(admin_router(service))
    app.openapi = lambda: openapi_document(app)  # type: ignore[method-assign]  # as FastAPI advises
    app.add_middleware(
        SecurityMiddleware,
        token=settings.api_token.get_secret_value(),
        allowed_hosts=settings.host_list,
        public_paths=PUBLIC_PATHS,
        max_body_bytes=MAX_INFERENCE_BODY_BYTES,
        unlimited=_never,
        render_error=render_openai_error,
    )
    return app


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document without its own validation error, which is never sent."""
    document = get_openapi(title=TITLE, version=VERSION, routes=app.routes)
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for unused in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(unused, None)
    return document


def _never(_method: str, _path: str) -> bool:
    return False
