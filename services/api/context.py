"""What every request handler may use, opened once a process by `app.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import httpx
from fastapi import Depends, Request
from prometheus_client import CollectorRegistry

from services.api.hub import EventHub
from shared.base.settings import Settings
from shared.db.session import Database
from shared.storage.base import ObjectStore

if TYPE_CHECKING:  # its route needs the context
    from services.api.overview import Overview


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The process's connections. Handlers open none of their own."""

    settings: Settings
    database: Database
    store: ObjectStore
    hub: EventHub
    overview: Overview
    inference: httpx.AsyncClient
    """Talks to the inference service."""
    registry: CollectorRegistry


def get_context(request: Request) -> Context:
    """The context that the lifespan has put on the application."""
    context: Context = request.app.state.context
    return context


ApiContext = Annotated[Context, Depends(get_context)]
