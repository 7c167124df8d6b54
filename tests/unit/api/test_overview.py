"""The live list of jobs: what is told first, and what has changed."""

from __future__ import annotations

import asyncio
import json

from starlette.testclient import TestClient

from services.api import overview
from services.api.context import Context
from tests.support import rows


def first_events(context: Context, count: int) -> list[list[str]]:
    """The names of the jobs in the first events of a stream."""

    async def read() -> list[list[str]]:
        stream = overview._encoded(context)
        found: list[list[str]] = []
        while len(found) < count:
            text = (await anext(stream)).decode()
            if text.startswith("data: "):
                found.append([job["name"] for job in json.loads(text.removeprefix("data: "))])
        await stream.aclose()
        return found

    return asyncio.run(read())


def test_that_there_are_no_jobs_is_told_too(client: TestClient, context: Context) -> None:
    assert first_events(context, 1) == [[]]
    client.post("/v1/jobs", json={**rows.INGEST, "name": "one"})
    assert first_events(context, 1) == [["one"]]
