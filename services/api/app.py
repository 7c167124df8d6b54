"""The API as an ASGI application: routes, errors, security, life span."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)

from fastapi import FastAPI
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry

from services.api import (
    artifacts,
    events,
    jobs,
    models,
    overview,
    pipelines,
    probes,
    proxy,
    recipes,
    schemas,
    sessions,
    uploads,
    workers,
)
from services.api.context import Context
from services.api.documentation import DEFAULT_RESPONSE, openapi_document
from services.api.hub import EventHub
from services.api.pages import load_pages, pages_router
from services.api.problems import (
    OPENAI_PREFIX,
    install_error_handlers,
    render_problem,
)
from services.api.telemetry import PlatformCollector, RequestMetrics, TelemetryMiddleware
from shared.base.hints import HintListener
from shared.base.http_security import AsgiApp, Receive, Scope, SecurityMiddleware, Send
from shared.base.openai_errors import render_openai_error
from shared.base.settings import Settings
from shared.base.version import package_version
from shared.contracts.names import HintChannel
from shared.contracts.serving import MAX_INFERENCE_BODY_BYTES
from shared.db.session import Database
from shared.jobs.leader.loop import LeaderLoop
from shared.jobs.queue import WakeSender, make_celery
from shared.storage.factory import open_store

MAX_BODY_BYTES = 1 << 20
ROUTERS = (
    probes.router,
    sessions.router,
    uploads.router,
    jobs.router,
    events.router,
    overview.router,
    pipelines.router,
    recipes.router,
    artifacts.router,
    models.router,
    workers.router,
    schemas.router,
    proxy.router,
)


def create_app(settings: Settings) -> FastAPI:
    """Build the application; what it needs is opened and closed with its life span."""
    registry = CollectorRegistry()
    app = FastAPI(
        title="Ryan-GPT",
        version=package_version(),
        description="Text in, a small language model of your own out. Errors are RFC 9457.",
        lifespan=_lifespan(settings, registry),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=DEFAULT_RESPONSE,
        generate_unique_id_function=_operation_id,
    )
    install_error_handlers(app)
    pages = load_pages()
    for router in (*ROUTERS, pages_router(pages)):
        app.include_router(router)
    app.openapi = lambda: openapi_document(app)  # type: ignore[method-assign]  # as FastAPI advises
    public_paths = probes.PUBLIC_PATHS | pages.paths
    app.add_middleware(Door, settings=settings, public_paths=public_paths)
    app.add_middleware(TelemetryMiddleware, metrics=RequestMetrics(registry))
    return app


class Door:
    """The security middleware, which speaks OpenAI's language below `/inference/`."""

    def __init__(self, app: AsgiApp, *, settings: Settings, public_paths: frozenset[str]) -> None:
        self._platform, self._inference = (
            SecurityMiddleware(
                app,
                token=settings.api_token.get_secret_value(),
                allowed_hosts=settings.host_list,
                public_paths=public_paths,
                max_body_bytes=max_body_bytes,
                unlimited=_is_upload,
                render_error=render,
                accept_cookie=True,
            )
            for render, max_body_bytes in (
                (render_problem, MAX_BODY_BYTES),
                (render_openai_error, MAX_INFERENCE_BODY_BYTES),
            )
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        below = scope["type"] == "http" and scope["path"].startswith(OPENAI_PREFIX)
        await (self._inference if below else self._platform)(scope, receive, send)


def _is_upload(method: str, path: str) -> bool:
    return method == "PUT" and path.startswith("/v1/uploads/") and path.endswith("/content")


def _operation_id(route: APIRoute) -> str:
    return route.name


def _lifespan(
    settings: Settings, registry: CollectorRegistry
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as closing:
            app.state.context = await _open_context(settings, registry, closing)
            yield

    return lifespan


async def _open_context(
    settings: Settings, registry: CollectorRegistry, closing: AsyncExitStack
) -> Context:
    """Open everything; `closing` closes it in the reverse order."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    uploads.remove_leftovers(settings.data_dir / uploads.INCOMING_FOLDER)
    database = Database(settings.resolved_database_url)
    closing.callback(database.close)
    store = open_store(settings)
    hub = EventHub(events.SqlStreamReader(database))
    await closing.enter_async_context(_running(hub))
    seen = overview.Overview(lambda: overview.read_overview(database))
    await closing.enter_async_context(_running(seen))
    redis_url = settings.redis_url.get_secret_value()
    listener = HintListener(redis_url, HintChannel.EVENTS, hub.wake)
    listener.start()
    closing.push_async_callback(asyncio.to_thread, listener.stop)
    sender = WakeSender(make_celery(settings))
    closing.callback(sender.close)
    leader = LeaderLoop(database, store, sender, settings)
    leader.start()
    closing.push_async_callback(asyncio.to_thread, leader.stop)
    inference = proxy.make_inference_client(settings)
    closing.push_async_callback(inference.aclose)
    registry.register(PlatformCollector(database, hub))
    return Context(
        settings=settings,
        database=database,
        store=store,
        hub=hub,
        overview=seen,
        inference=inference,
        registry=registry,
    )


@asynccontextmanager
async def _running(watch: EventHub | overview.Overview) -> AsyncIterator[None]:
    polling = asyncio.create_task(watch.run(), name=type(watch).__name__)
    try:
        yield
    finally:
        watch.close()
        polling.cancel()
        with suppress(asyncio.CancelledError):
            await polling
