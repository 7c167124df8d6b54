"""The client against scripted answers: what it sends, and what it makes of what comes back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ryangpt import ApiError, Client
from shared.base.errors import IntegrityError
from shared.contracts.views import ArtifactView

JOB = "job_01ARZ3NDEKTSV4RRFFQ69G5FAV"
Handler = Callable[[httpx.Request], httpx.Response]


def client_of(handler: Handler) -> Client:
    return Client("http://test", token="secret-1", transport=httpx.MockTransport(handler))


def event_text(*events: dict[str, Any], done: bool = False) -> str:
    blocks = [f"id: {e['seq']}\ndata: {json.dumps(e)}\n\n" for e in events]
    return "retry: 3000\n\n" + "".join(blocks) + ("event: done\ndata: {}\n\n" if done else "")


def event(seq: int) -> dict[str, Any]:
    at = "2026-01-01T00:00:00Z"
    return {"seq": seq, "type": "notice", "attempt": 1, "at": at, "data": {"message": str(seq)}}


def stream(text: str) -> httpx.Response:
    return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})


def test_a_problem_becomes_one_exception_with_the_servers_words() -> None:
    problem = {
        "type": "about:blank", "title": "Unprocessable", "status": 422, "code": "invalid_input",
        "detail": "The spec is not valid.", "hint": "Choose 5 heads.", "request_id": "r1",
        "errors": [{"pointer": "/spec/num_heads", "detail": "must divide d_model"}],
    }  # fmt: skip
    with pytest.raises(ApiError) as caught:
        client_of(lambda _: httpx.Response(422, json=problem)).job(JOB)
    error = caught.value
    assert (error.status_code, error.code, error.message) == (
        422, "invalid_input", "The spec is not valid.",
    )  # fmt: skip
    assert (error.hint, error.pointer, error.request_id) == (
        "Choose 5 heads.", "/spec/num_heads", "r1",
    )  # fmt: skip


def test_openais_error_shape_is_understood() -> None:
    body = {"error": {"message": "no such model", "type": "invalid_request_error",
                      "param": "model", "code": "model_not_found"}}  # fmt: skip
    answer = httpx.Response(404, json=body, headers={"Retry-After": "7"})
    with pytest.raises(ApiError) as caught:
        client_of(lambda _: answer).chat("m", "hi")
    error = caught.value
    assert (error.message, error.code, error.pointer) == (
        "no such model", "model_not_found", "/model",
    )  # fmt: skip
    assert error.retry_after == 7.0


@pytest.mark.parametrize("body", ["<html>bad gateway</html>", "[]", '{"detail": 3}'])
def test_an_answer_of_any_other_shape_is_told_by_its_status(body: str) -> None:
    with pytest.raises(ApiError) as caught:
        client_of(lambda _: httpx.Response(502, text=body)).job(JOB)
    assert caught.value.message == f"http://test/v1/jobs/{JOB} answered 502 Bad Gateway."


def test_lists_follow_the_cursor_and_carry_the_token() -> None:
    seen: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((str(request.url.query, "ascii"), request.headers["Authorization"]))
        first = "after" not in request.url.params
        upload = {"id": "upl_1" if first else "upl_2", "filename": "f", "state": "ready",
                  "bytes": 1, "sha256": None, "created_at": "2026-01-01T00:00:00Z"}  # fmt: skip
        next_after = "upl_1" if first else None
        return httpx.Response(
            200, json={"data": [upload], "has_more": first, "next_after": next_after}
        )

    assert [upload.id for upload in client_of(answer).uploads()] == ["upl_1", "upl_2"]
    assert seen == [("limit=100", "Bearer secret-1"), ("limit=100&after=upl_1", "Bearer secret-1")]


def upload_view(digest: str | None, size: int, state: str = "ready") -> dict[str, Any]:
    return {"id": "upl_1", "filename": "corpus.txt", "state": state, "bytes": size,
            "sha256": digest, "created_at": "2026-01-01T00:00:00Z"}  # fmt: skip


@pytest.mark.parametrize("known", [False, True])
def test_upload_announces_digest_and_streams_unless_the_server_has_it(
    tmp_path: Path, known: bool
) -> None:
    content = b"x" * (3 << 20)
    digest = hashlib.sha256(content).hexdigest()
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    requests: list[tuple[str, bytes]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append((f"{request.method} {request.url.path}", request.read()))
        if request.method == "GET":
            uploads = [upload_view(digest, len(content))] if known else []
            page = {"data": uploads, "has_more": False, "next_after": None}
            return httpx.Response(200, json=page)
        if request.method == "POST":
            return httpx.Response(201, json=upload_view(None, 0, "writing"))
        assert request.headers["Content-Length"] == str(len(content))
        return httpx.Response(200, json=upload_view(digest, len(content)))

    progress: list[int] = []
    sent = client_of(answer).upload(path, on_progress=progress.append)
    assert (sent.id, sent.sha256) == ("upl_1", digest)
    if known:
        assert [name for name, _ in requests] == ["GET /v1/uploads"]
        return
    names = ["GET /v1/uploads", "POST /v1/uploads", "PUT /v1/uploads/upl_1/content"]
    assert [name for name, _ in requests] == names
    assert json.loads(requests[1][1]) == {
        "filename": "corpus.txt", "bytes": len(content), "sha256": digest,
    }  # fmt: skip
    assert requests[2][1] == content
    assert progress == [1 << 20] * 3


def test_a_broken_event_stream_resumes_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ryangpt.client.time.sleep", lambda _: None)
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["Last-Event-ID"])
        if len(asked) == 2:
            raise httpx.ReadError("connection reset")
        if len(asked) == 1:
            return stream(event_text(event(4), event(5)))
        return stream(event_text(event(6), done=True))

    assert [e.seq for e in client_of(answer).events(JOB, after=3)] == [4, 5, 6]
    assert asked == ["3", "5", "5"]


def test_a_refused_event_stream_is_not_tried_again() -> None:
    with pytest.raises(ApiError) as caught:
        list(client_of(lambda _: httpx.Response(404, text="no")).events(JOB))
    assert caught.value.status_code == 404


def test_logs_follow_the_servers_cursor() -> None:
    pages = {"0": ("one\n\n", "7"), "7": ("three\n", "9"), "9": ("", "9")}

    def answer(request: httpx.Request) -> httpx.Response:
        text, after = pages[request.url.params["after"]]
        return httpx.Response(200, text=text, headers={"X-Next-After": after})

    assert list(client_of(answer).logs(JOB)) == ["one", "", "three"]


def test_chat_streams_text_until_done() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.read()) == {
            "model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True,
            "temperature": 0,
        }  # fmt: skip
        pieces = [{"choices": [{"delta": {"role": "assistant"}}]},
                  {"choices": [{"delta": {"content": "Hel"}}]},
                  {"choices": [{"delta": {"content": "lo"}, "finish_reason": None}]},
                  {"choices": [{"delta": {}, "finish_reason": "stop"}]},
                  {"choices": [], "usage": {}}]  # fmt: skip
        return stream("".join(f"data: {json.dumps(p)}\n\n" for p in pieces) + "data: [DONE]\n\n")

    text = "".join(client_of(answer).stream_chat("m", "hi", temperature=0))
    assert text == "Hello"


def test_an_error_inside_a_stream_is_raised() -> None:
    text = 'data: {"error": {"message": "engine stopped", "code": "engine"}}\n\n'
    with pytest.raises(ApiError, match="engine stopped"):
        list(client_of(lambda _: stream(text)).stream_chat("m", "hi"))


def artifact(sha256: str) -> ArtifactView:
    file = {"path": "part-00000.jsonl", "bytes": 3, "sha256": sha256, "role": "data"}
    meta = {"type": "dataset", "format": "documents", "documents": 1, "text_bytes": 3,
            "duplicates_dropped": 0, "source": "s"}  # fmt: skip
    manifest = {"id": "ds_1", "job_id": JOB, "token": 1, "created_at": "2026-01-01T00:00:00Z",
                "files": [file], "meta": meta}  # fmt: skip
    view = {"id": "ds_1", "type": "dataset", "name": "n", "job_id": JOB, "bytes": 3,
            "created_at": "2026-01-01T00:00:00Z", "manifest": manifest}  # fmt: skip
    return ArtifactView.model_validate(view)


def test_download_verifies_each_file(tmp_path: Path) -> None:
    client = client_of(lambda _: httpx.Response(200, content=b"abc"))
    good = artifact(hashlib.sha256(b"abc").hexdigest())
    assert client.download(good, tmp_path) == [tmp_path / "part-00000.jsonl"]
    assert (tmp_path / "part-00000.jsonl").read_bytes() == b"abc"
    with pytest.raises(IntegrityError):
        client.download(artifact("0" * 64), tmp_path / "bad")
    assert list((tmp_path / "bad").iterdir()) == []


def test_an_unreachable_server_says_what_to_do() -> None:
    with pytest.raises(ApiError) as caught, Client("http://127.0.0.1:9") as client:
        client.job(JOB)
    assert caught.value.code == "unreachable"
    assert "ryangpt up" in (caught.value.hint or "")
