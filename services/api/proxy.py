"""`/inference/*`: a streaming reverse proxy, so that a browser needs one address only.

What is below `/v1/` passes, and so do the routes about tokens; probes and metrics do not.

Both ends stream; a client that goes away aborts its request at the inference service, which then
stops computing. Errors are in OpenAI's shape, as everything under this prefix.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

import anyio
import httpx
from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.api.context import ApiContext
from shared.base.errors import NotFoundError, UnavailableError
from shared.base.openai_errors import render_openai_error
from shared.base.settings import Settings

CONNECT_SECONDS = 5.0
KEEPALIVE_SECONDS = 2.0
"""Shorter than the five seconds after which uvicorn closes an idle connection under our feet."""
RETRY_AFTER_SECONDS = 5
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers of one connection (RFC 9110, section 7.6.1); `connection` can name more."""
OF_THE_CLIENT = frozenset(
    {"host", "authorization", "cookie", "origin", "referer", "content-length", "x-request-id"}
)
"""Request headers that say who spoke to us; the inference service is spoken to by the platform."""
OF_THE_SERVER = frozenset({"date", "server", "x-request-id", "x-content-type-options"})
"""Response headers that this service sets itself."""
_PATH = re.compile(r"v1/[A-Za-z0-9._:~/-]*|tokenize|detokenize|tokenizer_info")

logger = logging.getLogger(__name__)
router = APIRouter(tags=["inference"])


def make_inference_client(settings: Settings) -> httpx.AsyncClient:
    """A client for `settings.resolved_inference_url` that waits for an answer without limit."""
    token = settings.api_token.get_secret_value()
    return httpx.AsyncClient(
        base_url=settings.resolved_inference_url,
        headers={b"authorization": f"Bearer {token}".encode()} if token else None,
        timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=None, keepalive_expiry=KEEPALIVE_SECONDS),
        trust_env=False,
        follow_redirects=False,
    )


@router.api_route("/inference/{path:path}", methods=["GET", "POST"], include_in_schema=False)
async def forward_to_inference(context: ApiContext, request: Request, path: str) -> Response:
    """Hand the request on to the inference service and its answer back."""
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise NotFoundError(f"There is nothing at {request.url.path}.")
    upstream_request = context.inference.build_request(
        request.method,
        _upstream_url(context.inference.base_url, path, request.scope["query_string"]),
        headers=_request_headers(request),
        content=await request.body(),
    )
    return ForwardedResponse(context.inference, upstream_request, request.state.request_id)


class ForwardedResponse(Response):
    """Sends the request when it is called, and relays what comes back as it comes."""

    def __init__(self, client: httpx.AsyncClient, request: httpx.Request, request_id: str) -> None:
        super().__init__()
        self._client = client
        self._request = request
        self._request_id = request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as group:

            async def abort_when_client_leaves() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(abort_when_client_leaves)
            await self._relay(send)
            group.cancel_scope.cancel()

    async def _relay(self, send: Send) -> None:
        try:
            upstream = await self._client.send(self._request, stream=True)
        except httpx.TransportError as error:
            logger.warning("The inference service cannot be reached: %r", error)
            await self._send_unavailable(send)
            return
        try:
            headers = _response_headers(upstream.headers.raw)
            start = {"type": "http.response.start", "headers": headers}
            await send({**start, "status": upstream.status_code})
            async for chunk in upstream.aiter_raw():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            with anyio.CancelScope(shield=True):
                await upstream.aclose()

    async def _send_unavailable(self, send: Send) -> None:
        error = UnavailableError(
            "The inference service cannot be reached.",
            code="inference_unavailable",
            retry_after=RETRY_AFTER_SECONDS,
            hint="It may be starting; its log says more.",
        )
        status, headers, body = render_openai_error(error, self._request_id)
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})


def _upstream_url(base: httpx.URL, path: str, query: bytes) -> httpx.URL:
    """The path is known to need no quoting; the query passes byte by byte."""
    raw_path = base.raw_path.rstrip(b"/") + f"/{path}".encode()
    return base.copy_with(raw_path=raw_path + b"?" + query if query else raw_path)


def _request_headers(request: Request) -> list[tuple[bytes, bytes]]:
    kept = _end_to_end(request.headers.raw, OF_THE_CLIENT)
    names = {name for name, _ in kept}
    if b"accept-encoding" not in names:
        kept.append((b"accept-encoding", b"identity"))  # or httpx would ask for its own
    return [*kept, (b"x-request-id", request.state.request_id.encode())]


def _response_headers(raw: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return _end_to_end(raw, OF_THE_SERVER)


def _end_to_end(
    raw: Iterable[tuple[bytes, bytes]], dropped: frozenset[str]
) -> list[tuple[bytes, bytes]]:
    """The headers that are not about one connection, and not among `dropped`."""
    lowered = [(name.lower(), value) for name, value in raw]
    named = {
        name.strip().lower()
        for header, value in lowered
        if header == b"connection"
        for name in value.decode("latin-1").split(",")
    }
    refused = {name.encode() for name in HOP_BY_HOP | dropped | named}
    return [(name, value) for name, value in lowered if name not in refused]
