"""Everything a client can get wrong: OpenAI's shape, a clear message, the field at fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from services.inference.health import PUBLIC_PATHS
from tests.integration.inference.conftest import Site, serve

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
USER = {"role": "user", "content": "Hello"}


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of a response that has nothing but an error."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


BAD_COMPLETIONS = [
    ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
    ({"temperature": 2.1}, "temperature", "less than or equal to 2"),
    ({"temperature": "1"}, "temperature", "valid number"),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"top_p": 1.01}, "top_p", "less than or equal to 1"),
    ({"top_k": -2}, "top_k", "greater than or equal to -1"),
    ({"min_p": 1.5}, "min_p", "less than or equal to 1"),
    ({"min_tokens": -1}, "min_tokens", "greater than or equal to 0"),
    ({"min_tokens": 6, "max_tokens": 5}, "min_tokens", "min_tokens 6 is above max_tokens 5"),
    ({"max_tokens": 0}, "max_tokens", "0 needs echo"),
    ({"max_tokens": -1, "echo": True}, "max_tokens", "greater than or equal to 0"),
    ({"max_tokens": 1.5}, "max_tokens", "valid integer"),
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"n": 10_000}, "n", "less than or equal to 128"),
    ({"n": 43, "prompt": ["a", "b", "c"]}, "n", "129 answers are asked for"),
    ({"n": True}, "n", "valid integer"),
    ({"best_of": 129}, "best_of", "less than or equal to 128"),
    ({"best_of": 2, "n": 3}, "best_of", "best_of 2 is below n, which is 3"),
    ({"best_of": 2, "stream": True}, "best_of", "not possible with stream"),
    ({"echo": "yes"}, "echo", "valid boolean"),
    ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
    ({"logprobs": True}, "logprobs", "valid integer"),
    ({"suffix": "end"}, "suffix", "is not supported"),
    ({"presence_penalty": 2.5}, "presence_penalty", "less than or equal to 2"),
    ({"frequency_penalty": -2.5}, "frequency_penalty", "greater than or equal to -2"),
    ({"repetition_penalty": 0}, "repetition_penalty", "greater than 0"),
    ({"logit_bias": {"300": 1}}, "logit_bias", "Token 300 is not in the vocabulary of 300"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5", "less than or equal to 100"),
    ({"logit_bias": {"five": 1}}, "logit_bias.five.[key]", "should match pattern"),
    ({"logit_bias": [5]}, "logit_bias", "valid dictionary"),
    ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", "at most 1024 items"),
    ({"stop_token_ids": [300]}, "stop_token_ids", "Token 300 is not in the vocabulary of 300"),
    ({"stop_token_ids": [5] * 129}, "stop_token_ids", "at most 128 items"),
    ({"seed": 2**63}, "seed", "less than"),
    ({"stop": ""}, "stop", "1 to 500 characters"),
    ({"stop": ["ok", "x" * 501]}, "stop", "1 to 500 characters"),
    ({"stop": "x" * (1 << 20)}, "stop", "1 to 500 characters"),
    ({"stop": ["x"] * 17}, "stop", "at most 16 stop strings"),
    ({"stop": [1]}, "stop", "a string or an array of strings"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "only allowed with stream"),
    ({"prompt": {"a": 1}}, "prompt", "must be a string, an array of token ids, or an array"),
    ({"prompt": [1, "x"]}, "prompt", "must be a string"),
    ({"prompt": [[1], "x"]}, "prompt", "must be a string"),
    ({"prompt": [1.5]}, "prompt", "must be a string"),
    ({"prompt": ["a"] * 129}, "prompt", "at most 128 prompts"),
    ({"prompt": [5, 300]}, "prompt", "Token 300 is not in the vocabulary of 300"),
    ({"prompt": [5, -1]}, "prompt", "Token -1 is not in the vocabulary of 300"),
    ({"prompt": [[5], [2**70]]}, "prompt", "is not in the vocabulary of 300"),
    ({"model": 5}, "model", "valid string"),
]


@pytest.mark.parametrize(("body", "param", "message"), BAD_COMPLETIONS, ids=str)
def test_a_bad_completion_is_400(
    site: Site, body: dict[str, Any], param: str, message: str
) -> None:
    response = site.http.post(COMPLETIONS, json={"prompt": "Hello", **body})
    error = error_of(response)
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert (error["param"], error["code"]) == (param, "invalid_value")
    assert message in error["message"]


BAD_CHATS = [
    ({}, "messages", "Field required"),
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": "Hello"}, "messages", "valid list"),
    ({"messages": [{"role": "user"}]}, "messages.0.content", "Field required"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "must be a string"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "must be a string"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages.0.content",
        "parts must look like",
    ),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "unknown role 'tool'"),
    ({"messages": [USER, USER]}, "messages.1.role", "second user turn in a row"),
    (
        {"messages": [USER, {"role": "assistant", "content": "x"}]},
        "messages.1.role",
        "The last message is the assistant's",
    ),
    ({"messages": [{"role": "user", "content": " "}]}, "messages.0.content", "is empty"),
    ({"messages": [USER], "logprobs": 5}, "logprobs", "valid boolean"),
    ({"messages": [USER], "top_logprobs": 2}, "top_logprobs", "is only allowed with logprobs"),
    ({"messages": [USER], "logprobs": True, "top_logprobs": 21}, "top_logprobs", "equal to 20"),
    (
        {"messages": [USER], "response_format": {"type": "json_object"}},
        "response_format",
        "is not supported",
    ),
    (
        {"messages": [{"role": "system", "content": "x"}]},
        "messages.0.role",
        "After a system message comes nothing.",
    ),
    (
        {
            "messages": [
                USER,
                {"role": "system", "content": "x"},
                {"role": "assistant", "content": "y"},
                USER,
            ]
        },
        "messages.2.role",
        "After a system message comes assistant.",
    ),
    ({"messages": [USER], "tools": [{}]}, "tools", "is not supported"),
    (
        {"messages": [USER], "min_tokens": 6, "max_completion_tokens": 5},
        "min_tokens",
        "min_tokens 6 is above max_tokens 5",
    ),
]


@pytest.mark.parametrize(("body", "param", "message"), BAD_CHATS, ids=str)
def test_a_bad_chat_is_400(site: Site, body: dict[str, Any], param: str, message: str) -> None:
    response = site.http.post(CHAT, json=body)
    error = error_of(response)
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["param"] == param
    assert message in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (COMPLETIONS, {"prompt": [5] * 64}, "prompt"),
        (COMPLETIONS, {"prompt": ["a", "xyz " * 50]}, "prompt"),
        (COMPLETIONS, {"prompt": [5] * 1_000_000}, "prompt"),
        (COMPLETIONS, {"prompt": "x" * 3_000_000}, "prompt"),
        (COMPLETIONS, {"prompt": [5] * 65, "echo": True, "max_tokens": 0}, "prompt"),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 3_000_000}]}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": "xyz " * 50}]}, "messages"),
    ],
)
def test_a_prompt_beyond_the_context(
    site: Site, path: str, body: dict[str, Any], param: str
) -> None:
    error = error_of(site.http.post(path, json=body))
    assert (error["code"], error["param"]) == ("context_length_exceeded", param)
    assert error["message"].startswith("This model's maximum context length is 64 tokens.")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Field required"),
        (b"{", "not valid JSON"),
        (b"[]", "valid dictionary"),
        (b"null", "valid dictionary"),
        (b'{"prompt": "\xff"}', "parsing the body"),
        (b'{"prompt": "\\ud800"}', "unicode"),
        (b'{"prompt": "a", "temperature": NaN}', "temperature"),
        (b'{"prompt": "a", "temperature": Infinity}', "temperature"),
    ],
)
def test_a_body_that_is_no_request(site: Site, content: bytes, message: str) -> None:
    headers = {"content-type": "application/json"}
    response = site.http.post(COMPLETIONS, content=content, headers=headers)
    assert response.status_code == 400
    assert message.lower() in error_of(response)["message"].lower()


@pytest.mark.parametrize(
    ("path", "longest", "longer", "param", "message"),
    [
        (
            "/tokenize",
            {"prompt": "ab" * (1 << 17)},
            {"prompt": "a" * ((1 << 18) + 1)},
            "prompt",
            "at most 262144 characters",
        ),
        (
            "/detokenize",
            {"tokens": [5] * (1 << 17)},
            {"tokens": [5] * ((1 << 17) + 1)},
            "tokens",
            "at most 131072 items",
        ),
    ],
)
def test_what_is_tokenized_is_bounded_in_length(
    site: Site, path: str, longest: Any, longer: Any, param: str, message: str
) -> None:
    assert site.http.post(path, json=longest).status_code == 200
    response = site.http.post(path, json=longer)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_value", param)
    assert message in error["message"]


def test_a_body_that_is_too_large_is_413(site: Site) -> None:
    response = site.http.post(COMPLETIONS, content=b"x" * (4 << 20) + b"y")
    error = error_of(response)
    assert (response.status_code, error["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v1/nothing", 404, "There is no GET /v1/nothing here."),
        ("GET", "/v1/models/", 404, "There is no GET /v1/models/ here."),
        ("GET", COMPLETIONS, 405, "/v1/completions does not answer to GET."),
        ("DELETE", "/v1/models", 405, "/v1/models does not answer to DELETE."),
    ],
)
def test_an_unknown_route(site: Site, method: str, path: str, status: int, message: str) -> None:
    response = site.http.request(method, path)
    error = error_of(response)
    assert (response.status_code, error["message"]) == (status, message)


@pytest.mark.parametrize("name", ["nobody", "base:1", "base:99"])
def test_an_unknown_model_is_404(site: Site, name: str) -> None:
    for response in (
        site.http.post(COMPLETIONS, json={"model": name}),
        site.http.post(CHAT, json={"model": name, "messages": [USER]}),
        site.http.get(f"/v1/models/{name}"),
    ):
        error = error_of(response)
        assert (response.status_code, error["code"]) == (404, "model_not_found")
        assert (error["type"], error["param"]) == ("not_found_error", "model")
        assert f"The model '{name}' does not exist." in error["message"]


def test_without_a_model_it_is_503_with_retry_after(empty_site: Site) -> None:
    for response in (
        empty_site.http.post(COMPLETIONS, json={"prompt": "x"}),
        empty_site.http.post(CHAT, json={"model": "demo", "messages": [USER]}),
    ):
        assert response.status_code == 503
        assert response.headers["retry-after"] == "5"
        error = error_of(response)
        assert (error["type"], error["code"]) == ("server_error", "model_not_ready")
    assert empty_site.http.get("/v1/models").json() == {"object": "list", "data": []}


def test_a_stream_that_is_refused_is_no_stream(site: Site) -> None:
    response = site.http.post(COMPLETIONS, json={"stream": True, "prompt": [5] * 70})
    assert response.status_code == 400
    assert error_of(response)["code"] == "context_length_exceeded"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serve(tmp_path_factory.mktemp("guarded"), api_token="a-long-token") as site:
        yield site


def test_every_route_but_the_probes_asks_for_the_token(guarded: Site) -> None:
    headers = {"authorization": "Bearer a-long-token"}
    document = guarded.http.get("/openapi.json", headers=headers).json()
    routes = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert len(routes) == 11
    for path, method in sorted(routes | {("/openapi.json", "get"), ("/nowhere", "get")}):
        response = guarded.http.request(method, path.replace("{name}", "x"))
        if path in PUBLIC_PATHS:
            assert response.status_code == 200
        else:
            assert response.status_code == 401, f"{method} {path} answers strangers"
            assert response.headers["www-authenticate"] == "Bearer"
            assert error_of(response)["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("header", "status"),
    [("Bearer a-long-token", 200), ("Bearer a-long-toke", 401), ("Basic a-long-token", 401)],
)
def test_the_token_opens_and_a_wrong_one_does_not(guarded: Site, header: str, status: int) -> None:
    response = guarded.http.get("/v1/models", headers={"authorization": header})
    assert response.status_code == status


def test_another_host_name_and_another_origin_are_refused(site: Site) -> None:
    response = site.http.get("/v1/models", headers={"host": "evil.example"})
    assert (response.status_code, error_of(response)["code"]) == (400, "host_not_allowed")
    response = site.http.post(COMPLETIONS, json={}, headers={"origin": "http://evil.example"})
    assert (response.status_code, error_of(response)["code"]) == (403, "origin_not_allowed")
