"""How the service is: an index, probes for an orchestrator, metrics for Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

import redis
from fastapi import APIRouter, Response
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from services.api.context import ApiContext, Context
from shared.base.errors import PlatformError
from shared.base.version import package_version
from shared.contracts.base import Contract
from shared.db.migrate import require_current

PUBLIC_PATHS = frozenset({"/health/live", "/health/ready"})
BROKER_TIMEOUT_SECONDS = 1.0
OK = "ok"

logger = logging.getLogger(__name__)
router = APIRouter(tags=["service"])


class Index(Contract):
    """What this address is."""

    name: Literal["Ryan-GPT"] = "Ryan-GPT"
    version: str
    links: dict[str, str]


class Liveness(Contract):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(Contract):
    """Whether requests can be served, and what each thing they need says."""

    status: Literal["ready", "not ready"]
    checks: dict[str, str]


@router.get("/v1")
def read_index() -> Index:
    """What this is and where to go on."""
    links = {
        "jobs": "/v1/jobs",
        "pages": "/",
        "pipelines": "/v1/pipelines",
        "recipes": "/v1/recipes",
        "models": "/v1/models",
        "schemas": "/v1/schemas",
        "inference": "/inference/v1",
        "openapi": "/openapi.json",
        "health": "/health/ready",
        "metrics": "/metrics",
    }
    return Index(version=package_version(), links=links)


@router.get("/health/live")
def live() -> Liveness:
    """Whether the process answers at all; needs nothing else."""
    return Liveness()


@router.get("/health/ready", responses={503: {"model": Readiness, "description": "Not ready."}})
def ready(context: ApiContext, response: Response) -> Readiness:
    """Whether database, its schema and the object store are there.

    The broker is reported only: without it jobs are taken and wait.
    """
    needed = {
        "database": _outcome(context.database.check),
        "schema": _outcome(lambda: require_current(context.database)),
        "store": _outcome(context.store.check),
    }
    is_ready = set(needed.values()) == {OK}
    response.status_code = 200 if is_ready else 503
    return Readiness(
        status="ready" if is_ready else "not ready",
        checks={**needed, "broker": _outcome(lambda: _check_broker(context))},
    )


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def read_service_metrics(context: ApiContext) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(generate_latest(context.registry), media_type=CONTENT_TYPE_LATEST)


def _outcome(check: Callable[[], object]) -> str:
    """`ok`, or that it is not: this answer is public, so the reason goes to the log alone."""
    try:
        check()
    except Exception as error:
        known = isinstance(error, PlatformError | redis.RedisError)
        logger.warning("A readiness check says: %s", error, exc_info=not known)
        return "unavailable"
    return OK


def _check_broker(context: Context) -> None:
    url = context.settings.redis_url.get_secret_value()
    timeout = BROKER_TIMEOUT_SECONDS
    with redis.Redis.from_url(
        url, socket_connect_timeout=timeout, socket_timeout=timeout
    ) as client:
        client.ping()
