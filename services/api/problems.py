"""Every error the API answers, in its one shape: problem details (RFC 9457).

Below `/inference/` the shape is OpenAI's, so that its clients understand a refusal too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from services.api.validation import problem_items
from shared.base.errors import PlatformError, UnavailableError
from shared.base.http_security import RenderedError
from shared.base.openai_errors import render_openai_error
from shared.contracts.views import Problem, ProblemItem

PROBLEM_MEDIA_TYPE = "application/problem+json"
OPENAI_PREFIX = "/inference/"
HTTP_ERROR_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}

logger = logging.getLogger(__name__)


def render_problem(error: PlatformError, request_id: str) -> RenderedError:
    """The answer to `error` as problem details."""
    items = [ProblemItem(pointer=error.pointer, detail=error.message)] if error.pointer else []
    problem = Problem(
        title=_phrase(error.status_code),
        status=error.status_code,
        detail=error.message,
        code=error.code,
        hint=error.hint,
        request_id=request_id,
        errors=items,
    )
    return _rendered(problem, _headers_of(error))


def install_error_handlers(app: FastAPI) -> None:
    """Replace FastAPI's own error bodies."""
    app.exception_handler(PlatformError)(_answer_platform_error)
    app.exception_handler(RequestValidationError)(_answer_validation_error)
    app.exception_handler(HTTPException)(_answer_http_error)
    app.exception_handler(ClientDisconnect)(_answer_nobody)


async def _answer_platform_error(request: Request, error: PlatformError) -> Response:
    if error.status_code >= 500:
        logger.error("%s %s: %s", request.method, request.url.path, error, exc_info=error)
    return _response(request, error)


async def _answer_http_error(request: Request, error: HTTPException) -> Response:
    """What the router itself refuses: no such path, or a method it has not."""
    message = {
        404: f"There is nothing at {request.url.path}.",
        405: f"{request.url.path} does not answer {request.method}.",
    }.get(error.status_code, str(error.detail))
    shown = PlatformError(message, code=HTTP_ERROR_CODES.get(error.status_code, "http_error"))
    shown.status_code = error.status_code
    return _response(request, shown, error.headers)


async def _answer_validation_error(request: Request, error: RequestValidationError) -> Response:
    items = problem_items(error.errors(), error.body)
    more = f" (and {len(items) - 1} more)" if len(items) > 1 else ""
    problem = Problem(
        title=_phrase(422),
        status=422,
        detail=f"{items[0].pointer or 'The body'}: {items[0].detail}{more}",
        code="invalid_input",
        hint="GET /v1/schemas describes every kind of job." if _is_submission(request) else None,
        request_id=request.state.request_id,
        errors=list(items),
    )
    status, headers, body = _rendered(problem, {})
    return Response(body, status, headers)


async def _answer_nobody(_request: Request, _error: ClientDisconnect) -> Response:
    """The client left in the middle of its request; the status is for the metrics alone."""
    return Response(status_code=499)


def _is_submission(request: Request) -> bool:
    return request.method == "POST" and request.url.path in {"/v1/jobs", "/v1/pipelines"}


def _response(
    request: Request, error: PlatformError, headers: Mapping[str, str] | None = None
) -> Response:
    in_openai_shape = request.url.path.startswith(OPENAI_PREFIX)
    render = render_openai_error if in_openai_shape else render_problem
    status, own_headers, body = render(error, request.state.request_id)
    return Response(body, status, {**own_headers, **(headers or {})})


def _rendered(problem: Problem, headers: dict[str, str]) -> RenderedError:
    body = problem.model_dump_json(exclude_none=True).encode()
    return problem.status, {"content-type": PROBLEM_MEDIA_TYPE, **headers}, body


def _headers_of(error: PlatformError) -> dict[str, str]:
    if isinstance(error, UnavailableError):
        return {"retry-after": str(error.retry_after)}
    return {}


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase
