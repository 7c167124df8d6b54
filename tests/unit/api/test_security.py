"""No route of the API answers a stranger, but the probes and the pages, which hold no data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from shared.base.http_security import SESSION_COOKIE
from tests.unit.api.conftest import TOKEN

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PUBLIC = {("GET", "/"), ("GET", "/health/live"), ("GET", "/health/ready")}


def paths_of(app: FastAPI) -> set[str]:
    """Every path template, of documented and of hidden routes. The shell stands for the pages."""
    documented = set(app.openapi()["paths"])
    return documented | {"/", "/openapi.json", "/inference/v1/{path}", "/no/such/path"}


def requests_to(app: FastAPI) -> Iterator[tuple[str, str]]:
    for path in sorted(paths_of(app)):
        filled = path
        while "{" in filled:
            before, _, rest = filled.partition("{")
            filled = f"{before}x{rest.partition('}')[2]}"
        yield from ((method, filled) for method in METHODS)


def test_the_walk_covers_the_api(app: FastAPI) -> None:
    paths = paths_of(app)
    assert {"/", "/v1/jobs", "/v1/jobs/{job_id}/events/stream", "/metrics", "/v1/session"} <= paths
    assert len(paths) > 35


def test_without_credentials_only_probes_and_pages_answer(
    app: FastAPI, stranger: TestClient
) -> None:
    answers = {
        (method, path): stranger.request(method, path).status_code
        for method, path in requests_to(app)
    }
    open_doors = {request for request, status in answers.items() if status != 401}
    expected_open = {(method, path) for method in METHODS for _, path in PUBLIC}
    assert open_doors == expected_open
    assert {answers[request] for request in PUBLIC} == {200}
    assert {answers[request] for request in expected_open - PUBLIC} == {405}


def test_a_wrong_token_opens_nothing(app: FastAPI, stranger: TestClient) -> None:
    stranger.headers["Authorization"] = f"Bearer {TOKEN}x"
    public = {path for _, path in PUBLIC}
    answers = {
        path: stranger.request(method, path).status_code for method, path in requests_to(app)
    }
    assert {status for path, status in answers.items() if path not in public} == {401}


def test_the_refusal_is_a_problem_document(stranger: TestClient) -> None:
    response = stranger.get("/v1/jobs", headers={"X-Request-Id": "abc"})
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json() == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "This request needs a valid token.",
        "code": "unauthorized",
        "hint": "Send `Authorization: Bearer <token>`, the token being RYANGPT_API_TOKEN.",
        "request_id": "abc",
        "errors": [],
    }


def test_below_inference_the_refusal_has_openai_s_shape(stranger: TestClient) -> None:
    response = stranger.post("/inference/v1/chat/completions", json={})
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"


def test_a_foreign_host_is_refused_before_anything(client: TestClient) -> None:
    response = client.get("/health/live", headers={"Host": "evil.test"})
    assert (response.status_code, response.json()["code"]) == (400, "host_not_allowed")


def test_a_page_of_another_origin_submits_nothing(client: TestClient) -> None:
    job = {"kind": "ingest", "spec": {"source": "python_docs"}}
    response = client.post("/v1/jobs", json=job, headers={"Origin": "http://evil.test"})
    assert (response.status_code, response.json()["code"]) == (403, "origin_not_allowed")
    assert client.get("/v1/jobs").json()["data"] == []
    own = client.post("/v1/jobs", json=job, headers={"Origin": "http://testserver"})
    assert own.status_code == 201


def test_a_session_cookie_stands_for_the_token(client: TestClient, stranger: TestClient) -> None:
    cookie = client.post("/v1/session").headers["set-cookie"]
    assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(cookie.split("; "))
    assert TOKEN not in cookie
    stranger.cookies.set(SESSION_COOKIE, client.cookies[SESSION_COOKIE])
    assert stranger.get("/v1/jobs").status_code == 200
    stranger.cookies.set(SESSION_COOKIE, "0" * 64)
    assert stranger.get("/v1/jobs").status_code == 401


def test_the_session_is_closed_by_deleting_the_cookie(client: TestClient) -> None:
    client.post("/v1/session")
    assert client.delete("/v1/session").status_code == 204
    assert SESSION_COOKIE not in client.cookies


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/pipelines", "/v1/session"])
def test_a_body_of_more_than_a_mebibyte_is_refused(client: TestClient, path: str) -> None:
    response = client.post(path, content=b"x" * (1 << 20) + b"x")
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
