"""A creating request sent twice with one Idempotency-Key is done once and answered twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.orm import Session

from services.api.context import Context
from shared.base.clock import utc_now
from shared.base.errors import InvalidInputError
from shared.db.repositories.idempotency import NOT_ANSWERED, keep_answer, take_key

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any text of your own; sending the same request with it again within 48 hours "
        "returns the first answer.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """The answer to a request that made something."""

    location: str
    document: BaseModel


def create_once(
    context: Context,
    request: Request,
    body: BaseModel,
    key: str | None,
    create: Callable[[Session], Created],
) -> JSONResponse:
    """Run `create` in one transaction and answer 201; with a known `key`, only answer.

    The key is kept in the same transaction, so an error keeps nothing. Raises InvalidInputError
    when the key has come with another request.
    """
    with context.database.transaction() as session:
        if key is None:
            created = create(session)
            return _answer(201, created.location, created.document.model_dump(mode="json"))
        digest = _digest(request, body)
        row = take_key(session, key, request_sha256=digest, now=utc_now())
        if row.status == NOT_ANSWERED:
            created = create(session)
            document = created.document.model_dump(mode="json")
            keep_answer(session, row, status=201, location=created.location, response=document)
        elif row.request_sha256 != digest:
            raise InvalidInputError(
                "This Idempotency-Key was sent before with another request.",
                code="idempotency_key_reused",
                hint="Use a new key for a new request.",
            )
        return _answer(row.status, row.location, row.response)


def _answer(status: int, location: str, document: dict[str, Any]) -> JSONResponse:
    return JSONResponse(document, status, {"Location": location})


def _digest(request: Request, body: BaseModel) -> str:
    """Of route and content; spelling and defaults left out make no difference."""
    content = f"{request.url.path}\n{body.model_dump_json()}"
    return hashlib.sha256(content.encode()).hexdigest()
