"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, with its types.

Both HTTP services answer so where OpenAI's clients talk to them. Knows no web framework.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from shared.base.errors import PlatformError, UnavailableError
from shared.base.http_security import RenderedError

TYPE_OF_STATUS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
"""The other 4xx are `invalid_request_error`, 5xx are `server_error`."""
CODE_OF_STATUS = {401: "invalid_api_key"}


def error_body(status: int, message: str, *, param: str | None, code: str | None) -> dict[str, Any]:
    """The body of an error response, also sent inside a stream."""
    kind = TYPE_OF_STATUS.get(status) or (
        "server_error" if status >= 500 else "invalid_request_error"
    )
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def render_openai_error(error: PlatformError, request_id: str) -> RenderedError:
    """Status, headers and body for an error of the platform; OpenAI knows no 422, only 400."""
    del request_id  # it is in the response's header
    status = 400 if error.status_code == HTTPStatus.UNPROCESSABLE_ENTITY else error.status_code
    message = f"{error.message} {error.hint}" if error.hint else error.message
    param = error.pointer.strip("/").replace("/", ".") if error.pointer else None
    body = error_body(
        status, message, param=param or None, code=CODE_OF_STATUS.get(status, error.code)
    )
    headers = {"content-type": "application/json"}
    if isinstance(error, UnavailableError):
        headers["retry-after"] = str(error.retry_after)
    return status, headers, json.dumps(body, ensure_ascii=False).encode()
