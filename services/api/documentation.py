"""The OpenAPI document of the API: FastAPI's, corrected."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from services.api.probes import PUBLIC_PATHS
from services.api.problems import PROBLEM_MEDIA_TYPE
from shared.base.http_security import SESSION_COOKIE
from shared.contracts.views import Problem

SCHEMA_PREFIX = "#/components/schemas/"
DEFAULT_RESPONSE: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "An error (RFC 9457).",
        "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": f"{SCHEMA_PREFIX}Problem"}}},
    }
}
"""Every operation's answer in case of an error."""


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with our error shape in place of its own, and the way to log in."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    _, problem = models_json_schema(
        [(Problem, "serialization")], ref_template=f"{SCHEMA_PREFIX}{{model}}"
    )
    schemas.update(problem["$defs"])
    document["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer"},
        "session": {"type": "apiKey", "in": "cookie", "name": SESSION_COOKIE},
    }
    document["security"] = [{"token": []}, {"session": []}]
    for path in PUBLIC_PATHS:
        document["paths"][path]["get"]["security"] = []
    return document
