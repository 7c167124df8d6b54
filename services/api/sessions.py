"""The browser's way in: a page sends the token once and gets a cookie that scripts cannot read."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from services.api.context import ApiContext
from shared.base.http_security import SESSION_COOKIE, session_value

router = APIRouter(prefix="/v1/session", tags=["service"])


@router.post("", status_code=204, response_class=Response)
def open_session(context: ApiContext, request: Request) -> Response:
    """Exchange the bearer token of this request for a session cookie (SameSite=Strict)."""
    response = Response(status_code=204)
    token = context.settings.api_token.get_secret_value()
    if token:
        response.set_cookie(
            SESSION_COOKIE,
            session_value(token),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
    return response


@router.delete("", status_code=204, response_class=Response)
def close_session() -> Response:
    """Forget the session cookie."""
    response = Response(status_code=204)
    response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
    return response
