"""HTTP as the client needs it: JSON in and out, server-sent events, and one exception for trouble.

Knows the shapes of the servers' errors; what the documents mean is the client's business.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from httpx_sse import EventSource
from pydantic import ValidationError

from shared.base.errors import PlatformError
from shared.contracts.views import Problem, ProblemItem

UNREACHABLE = "unreachable"


class ApiError(PlatformError):
    """The server refused, or could not be reached (`code == "unreachable"`).

    `message` and `hint` are the server's own words; `pointer` names the first offending field and
    `errors` all of them.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int,
        code: str,
        hint: str | None = None,
        errors: tuple[ProblemItem, ...] = (),
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        pointer = errors[0].pointer if errors else None
        super().__init__(message, code=code, hint=hint, pointer=pointer)
        self.status_code = status_code
        self.errors = errors
        self.request_id = request_id
        self.retry_after = retry_after
        """Seconds after which the server suggests to try again."""


class Transport:
    """One server's address and token, and requests to it.

    Every method raises ApiError for an answer of 400 and above and for a server out of reach.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.url = url.rstrip("/")
        self.headers = headers
        """Sent with every request."""
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=timeout, transport=transport
        )

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request and return the whole answer."""
        with self._translated(path):
            response = self._http.request(method, path, **options)
        raise_for_problem(response)
        return response

    def json(self, method: str, path: str, **options: Any) -> Any:
        """Send a request and return its parsed JSON answer."""
        return self.request(method, path, **options).json()

    @contextmanager
    def stream(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """Send a request and hand out the answer before its body has arrived."""
        with self._translated(path), self._http.stream(method, path, **options) as response:
            if response.is_error:
                response.read()
            raise_for_problem(response)
            yield response

    @contextmanager
    def events(self, method: str, path: str, **options: Any) -> Iterator[EventSource]:
        """Open a stream of server-sent events; it may be silent for up to a minute."""
        headers = {"Accept": "text/event-stream", **options.pop("headers", {})}
        timeout = httpx.Timeout(30.0, read=60.0)
        with self.stream(method, path, headers=headers, timeout=timeout, **options) as response:
            yield EventSource(response)

    @contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise self._unreachable(f"{self.url}{path} did not answer in time.") from error
        except httpx.InvalidURL as error:
            raise ApiError(
                f"{self.url!r} is not an address: {error}.", status_code=0, code="bad_url"
            ) from error
        except httpx.TransportError as error:
            raise self._unreachable(f"{self.url} cannot be reached: {error}.") from error

    @staticmethod
    def _unreachable(message: str) -> ApiError:
        hint = "Is `ryangpt up` running? Another address: --url or RYANGPT_URL."
        return ApiError(message, status_code=503, code=UNREACHABLE, hint=hint)


def raise_for_problem(response: httpx.Response) -> None:
    """Raise ApiError for an answer of 400 and above, read as RFC 9457 or in OpenAI's shape."""
    if not response.is_error:
        return
    retry_after = response.headers.get("retry-after", "")
    document = _parsed(response)
    error = _from_problem(document) or _from_openai(document, response.status_code)
    if error is None:
        reason = response.reason_phrase or "error"
        message = f"{response.request.url} answered {response.status_code} {reason}."
        error = ApiError(message, status_code=response.status_code, code="http_error")
    error.retry_after = float(retry_after) if retry_after.isdecimal() else None
    raise error


def _parsed(response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return document if isinstance(document, dict) else {}


def _from_problem(document: dict[str, Any]) -> ApiError | None:
    try:
        problem = Problem.model_validate(document)
    except ValidationError:
        return None
    return ApiError(
        problem.detail,
        status_code=problem.status,
        code=problem.code,
        hint=problem.hint,
        errors=tuple(problem.errors),
        request_id=problem.request_id,
    )


def _from_openai(document: dict[str, Any], status_code: int) -> ApiError | None:
    error = document.get("error")
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    code = error.get("code") or error.get("type") or "inference_error"
    param = error.get("param")
    errors = (ProblemItem(pointer=f"/{param}", detail=error["message"]),) if param else ()
    return ApiError(error["message"], status_code=status_code, code=str(code), errors=errors)
