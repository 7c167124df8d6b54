"""The one door of both HTTP services: default-deny, plain ASGI, no web framework.

Every request gets an id, then passes host, origin, credentials and size, in this order; a path is
public only when it is listed. Knows no route and no error format: the service renders errors.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from shared.base.errors import (
    ForbiddenError,
    InvalidInputError,
    PlatformError,
    RequestTimeoutError,
    TooLargeError,
    UnauthorizedError,
)
from shared.base.logs import bound_context

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
RenderedError = tuple[int, dict[str, str], bytes]
"""Status, headers and body of an error response."""
RenderError = Callable[[PlatformError, str], RenderedError]
"""Turns an error and the request's id into a response."""

SESSION_COOKIE = "ryangpt_session"
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
"""On every response that does not set them itself: no answer is a page, unless it says so."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
BODY_SECONDS = 30.0
"""A body (uploads apart) must be there by then."""
_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_PORT = re.compile(r":\d+$")

logger = logging.getLogger(__name__)


def session_value(token: str) -> str:
    """The session cookie's value: proves that its bearer knew `token`, without containing it."""
    return hmac.new(token.encode(), b"ryangpt session 1", hashlib.sha256).hexdigest()


class SecurityMiddleware:
    """Answers what must not reach `app`; adds `x-request-id` and SECURITY_HEADERS to responses.

    An empty `token` lets every caller in: only a service bound to loopback may be given one.
    `unlimited(method, path)` names the requests whose body streams through without a limit; every
    other body is read here, up to `max_body_bytes`. With `accept_cookie` the cookie
    `SESSION_COOKIE` counts as the token does. An exception that `app` lets through becomes a 500.
    """

    def __init__(
        self,
        app: AsgiApp,
        *,
        token: str,
        allowed_hosts: Sequence[str],
        public_paths: frozenset[str],
        max_body_bytes: int,
        unlimited: Callable[[str, str], bool],
        render_error: RenderError,
        accept_cookie: bool = False,
    ) -> None:
        self._app = app
        self._token = token.encode()
        self._session = session_value(token).encode() if token and accept_cookie else b""
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)
        self._public_paths = public_paths
        self._max_body_bytes = max_body_bytes
        self._unlimited = unlimited
        self._render_error = render_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._handle(scope, receive, send)
        else:  # no service here speaks WebSocket
            await send({"type": "websocket.close", "code": 1008})

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        context = bound_context.set({**(bound_context.get() or {}), "request_id": request_id})
        response = _Response(send, request_id)
        try:
            self._check_host(scope)
            self._check_origin(scope)
            self._check_credentials(scope)
            await self._app(scope, await self._limited(scope, receive), response.send)
        except Exception as error:  # noqa: BLE001 - the boundary of a request: answer and log it
            await self._answer_error(error, response, request_id)
        finally:
            bound_context.reset(context)

    def _check_host(self, scope: Scope) -> None:
        hosts = _header_values(scope, b"host")
        if len(hosts) == 1 and _PORT.sub("", hosts[0].lower()) in self._allowed_hosts:
            return
        error = InvalidInputError(
            "This service does not answer to the host name of this request.",
            code="host_not_allowed",
            hint="Add the name to RYANGPT_ALLOWED_HOSTS if it is yours.",
        )
        error.status_code = 400
        raise error

    def _check_origin(self, scope: Scope) -> None:
        """A page of another site must not act through its visitor's browser (CSRF)."""
        if scope["method"] in SAFE_METHODS:
            return
        own = _header_values(scope, b"host")[0].lower()
        for origin in _header_values(scope, b"origin"):
            if _network_location(origin) != own:
                raise ForbiddenError(
                    "A page of another origin may not send this request.",
                    code="origin_not_allowed",
                )

    def _check_credentials(self, scope: Scope) -> None:
        if not self._token or scope["path"] in self._public_paths:
            return
        if not (self._has_token(scope) or self._has_session(scope)):
            raise UnauthorizedError(
                "This request needs a valid token.",
                hint="Send `Authorization: Bearer <token>`, the token being RYANGPT_API_TOKEN.",
            )

    def _has_token(self, scope: Scope) -> bool:
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(values) != 1:
            return False
        scheme, _, token = values[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)

    def _has_session(self, scope: Scope) -> bool:
        if not self._session:
            return False
        sent = _cookie(scope, SESSION_COOKIE)
        return hmac.compare_digest(sent.encode(), self._session)

    async def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """Read the body now and hand it on in one piece, so that no reader can be fed too much."""
        if self._unlimited(scope["method"], scope["path"]):
            return receive
        for length in _header_values(scope, b"content-length"):
            sane = length.isdecimal() and len(length) < 20
            self._check_size(int(length) if sane else self._max_body_bytes + 1)
        return await self._read_body(receive)

    async def _read_body(self, receive: Receive) -> Receive:
        body = bytearray()
        last: Message = {"type": "http.request", "more_body": True}
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while last["type"] == "http.request" and last.get("more_body", False):
                    last = await receive()
                    body += last.get("body", b"")
                    self._check_size(len(body))
        except TimeoutError as error:
            raise RequestTimeoutError(
                f"The body was not there after {BODY_SECONDS:g} s; {len(body)} bytes had come."
            ) from error
        complete = {"type": "http.request", "body": bytes(body), "more_body": False}
        waiting: list[Message] = [complete if last["type"] == "http.request" else last]

        async def receive_again() -> Message:
            return waiting.pop() if waiting else await receive()

        return receive_again

    def _check_size(self, num_bytes: int) -> None:
        if num_bytes > self._max_body_bytes:
            raise TooLargeError(
                f"The body is larger than {self._max_body_bytes} bytes.",
                hint="Files go through POST /v1/uploads.",
            )

    async def _answer_error(self, error: Exception, response: _Response, request_id: str) -> None:
        if response.started:
            raise error  # too late for an answer: the server must cut the connection
        if isinstance(error, PlatformError):
            shown = error
        else:
            logger.error("Unexpected error while answering a request.", exc_info=error)
            shown = PlatformError(
                "Something went wrong inside the service.",
                hint=f"Its log has the details under request id {request_id}.",
            )
        status, headers, body = self._render_error(shown, request_id)
        if status == RequestTimeoutError.status_code:
            headers = {**headers, "connection": "close"}  # what may still come is no request
        if status == UnauthorizedError.status_code:
            headers = {**headers, "www-authenticate": "Bearer"}
        await response.send_whole(status, headers, body)


class _Response:
    """Sends on, adding the headers that every response has; remembers whether it has begun."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._extra = [(b"x-request-id", request_id.encode())]
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            present = {bytes(name).lower() for name, _ in message.get("headers", ())}
            extra = (*self._extra, *SECURITY_HEADERS)
            added = [(name, value) for name, value in extra if name not in present]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await self._send(message)

    async def send_whole(self, status: int, headers: dict[str, str], body: bytes) -> None:
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        raw.append((b"content-length", str(len(body)).encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_REQUEST_ID.fullmatch(value):
            return bytes(value).decode("ascii")
    return uuid4().hex


def _header_values(scope: Scope, wanted: bytes) -> list[str]:
    return [bytes(value).decode("latin-1") for name, value in scope["headers"] if name == wanted]


def _network_location(origin: str) -> str:
    """`host:port` of an Origin header; empty for `null` and for what is no origin."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _cookie(scope: Scope, name: str) -> str:
    for header in _header_values(scope, b"cookie"):
        try:
            morsel = SimpleCookie(header).get(name)
        except CookieError:
            continue
        if morsel is not None:
            return str(morsel.value)
    return ""
