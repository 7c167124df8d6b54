"""Who works: the worker processes as their heartbeats describe them."""

from __future__ import annotations

from fastapi import APIRouter

from services.api.context import ApiContext
from shared.contracts.views import Page, WorkerView
from shared.db.repositories.workers import list_workers
from shared.db.session import database_now
from shared.jobs.reading.views import worker_view
from shared.jobs.timing import LEASE_SECONDS

router = APIRouter(prefix="/v1/workers", tags=["workers"])


@router.get("")
def list_worker_processes(context: ApiContext) -> Page[WorkerView]:
    """Workers seen within the last day; `alive` says whether one still gives signs of life."""
    lease_seconds = context.settings.seconds(LEASE_SECONDS)
    with context.database.reading() as session:
        now = database_now(session)
        views = [
            worker_view(row, now, lease_seconds=lease_seconds) for row in list_workers(session)
        ]
    return Page(data=views, has_more=False)
