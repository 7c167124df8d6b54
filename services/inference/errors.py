"""Every error in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from services.inference.failures import BegunError
from shared.base.errors import PlatformError
from shared.base.openai_errors import error_body, render_openai_error

MESSAGE_OF_STATUS = {
    404: "There is no {method} {path} here.",
    405: "{path} does not answer to {method}.",
}


def install_error_handlers(app: FastAPI) -> None:
    """Answer what handlers, validation and routing raise."""
    app.add_exception_handler(PlatformError, _answer_platform_error)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(HTTPException, _answer_http_error)


async def _answer_platform_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, PlatformError):
        raise error
    status, headers, body = render_openai_error(error, request.state.request_id)
    if isinstance(error, BegunError):
        headers["x-should-retry"] = "false"  # OpenAI's clients repeat every 5xx otherwise
    return Response(body, status_code=status, headers=headers)


async def _answer_validation_error(request: Request, error: Exception) -> Response:
    del request
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    message, param = _explain(first)
    code = "invalid_json" if first["type"] == "json_invalid" else "invalid_value"
    return _json_response(400, error_body(400, message, param=param, code=code))


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """What routing raises (404, 405), and FastAPI for a body that is no text."""
    if not isinstance(error, HTTPException):
        raise error
    status = error.status_code
    template = MESSAGE_OF_STATUS.get(status)
    message = (
        template.format(method=request.method, path=request.url.path)
        if template
        else str(error.detail)
    )
    code = HTTPStatus(status).phrase.lower().replace(" ", "_")
    body = error_body(status, message, param=None, code=code)
    return _json_response(status, body, headers=dict(error.headers or {}))


def _json_response(
    status: int, body: dict[str, Any], headers: dict[str, str] | None = None
) -> Response:
    content = json.dumps(body, ensure_ascii=False)
    return Response(content, status_code=status, headers=headers, media_type="application/json")


def _explain(problem: dict[str, Any]) -> tuple[str, str | None]:
    """One sentence and the field it is about."""
    if problem["type"] == "json_invalid":
        return f"The body is not valid JSON: {problem['ctx']['error']}.", None
    param = ".".join(str(part) for part in problem["loc"][1:]) or None
    message = problem["msg"].removeprefix("Value error, ")
    return f"{param}: {message}." if param else f"{message}.", param
