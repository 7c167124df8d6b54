"""What a client gets for a good request."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from shared.text.chat import encode_prompt
from tests.integration.inference.conftest import BASE, CHAT, Site
from tests.support.models import small_tokenizer
from tests.support.serving import greedy_without_cache

TOKENIZER = small_tokenizer()
PROMPT = "The capital of France is"
IDS = TOKENIZER.encode(PROMPT)
MESSAGES = [{"role": "user", "content": "Hello"}]


def stream(site: Site, path: str, **body: Any) -> tuple[httpx.Response, list[Any]]:
    """Response and decoded events of a stream; `[DONE]` stays text."""
    with site.http.stream("POST", path, json={"stream": True, "temperature": 0, **body}) as answer:
        raw = answer.read().decode()
    events = raw.split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") for event in events)
    contents = [event.removeprefix("data: ") for event in events]
    return answer, [text if text == "[DONE]" else json.loads(text) for text in contents]


def greedy_text(num_tokens: int) -> str:
    return TOKENIZER.decode(greedy_without_cache(BASE, IDS, num_tokens))


def test_a_completion_is_the_greedy_continuation(site: Site) -> None:
    answer = site.complete(PROMPT, model="base", max_tokens=12)
    assert answer["choices"] == [
        {"index": 0, "text": greedy_text(12), "logprobs": None, "finish_reason": "length"}
    ]
    num_prompt = len(IDS)
    assert answer["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": 12,
        "total_tokens": num_prompt + 12,
    }
    assert (answer["object"], answer["model"]) == ("text_completion", "base")
    assert answer["id"].startswith("cmpl-")
    digest = site.service.models.resolve("base").pointer.manifest_sha256
    assert answer["system_fingerprint"] == f"base:1-{digest[:8]}-bags-cpu"


def test_sixteen_tokens_by_default(site: Site) -> None:
    assert site.complete(PROMPT)["usage"]["completion_tokens"] == 16


def test_min_tokens_alone_raises_the_default_of_max_tokens(site: Site) -> None:
    answer = site.complete(PROMPT, min_tokens=20, model="base")
    assert answer["usage"]["completion_tokens"] == 20


@pytest.mark.parametrize("prompt", [PROMPT, [PROMPT], IDS, [IDS]])
def test_every_form_of_a_prompt_means_the_same(site: Site, prompt: Any) -> None:
    text = site.complete(prompt, model="base", max_tokens=8)["choices"][0]["text"]
    assert text == greedy_text(8)


@pytest.mark.parametrize("body", [{}, {"prompt": None}, {"prompt": ""}, {"prompt": []}])
def test_no_prompt_begins_a_document(site: Site, body: dict[str, Any]) -> None:
    request = {"model": "base", "temperature": 0, "max_tokens": 6, "ignore_eos": True, **body}
    answer = site.http.post("/v1/completions", json=request).json()
    expected = TOKENIZER.decode(greedy_without_cache(BASE, [TOKENIZER.end_id], 6))
    assert answer["choices"][0]["text"] == expected


def test_nulls_mean_defaults_and_unknown_fields_are_ignored(site: Site) -> None:
    nulls = dict.fromkeys(
        ("max_tokens", "top_p", "top_k", "min_p", "n", "stop", "seed", "stream", "stream_options",
         "logit_bias", "presence_penalty", "echo", "logprobs", "min_tokens", "user"),
    )  # fmt: skip
    answer = site.complete(PROMPT, model="base", **nulls, user_agent="x", metadata={"a": 1})
    assert answer["choices"][0]["text"] == greedy_text(16)


def test_neutral_values_of_unsupported_fields_are_fine(site: Site) -> None:
    neutral = {
        "n": 1, "best_of": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {},
        "echo": False, "suffix": "",
    }  # fmt: skip
    assert site.complete(PROMPT, model="base", **neutral)["choices"][0]["text"] == greedy_text(16)


def test_the_context_ends_an_answer(site: Site) -> None:
    answer = site.complete(IDS[:1] * 60, model="base", max_tokens=500, ignore_eos=True)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 64


def test_a_stop_string_is_cut_off(site: Site) -> None:
    whole = greedy_text(12)
    stop = whole[5:7]
    answer = site.complete(PROMPT, model="base", max_tokens=12, stop=["never said", stop])
    assert answer["choices"][0]["text"] == whole[: whole.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_a_seed_repeats_an_answer_and_another_does_not(site: Site) -> None:
    wishes = {"temperature": 1.0, "max_tokens": 30, "top_p": 0.95, "model": "base"}
    answers = [
        site.complete(PROMPT, **wishes, seed=seed)["choices"][0]["text"] for seed in (7, 7, -8)
    ]
    assert answers[0] == answers[1] != answers[2]


def test_the_headers_say_who_answered(site: Site) -> None:
    response = site.http.post(
        "/v1/completions", json={"model": "base"}, headers={"x-request-id": "mine-1"}
    )
    assert response.headers["x-request-id"] == "mine-1"
    assert response.headers["x-model-version"] == "1"
    expected = site.service.models.resolve("base").pointer.manifest_sha256
    assert response.headers["x-model-sha256"] == expected


def test_a_stream_of_a_completion(site: Site) -> None:
    response, events = stream(site, "/v1/completions", model="base", prompt=PROMPT, max_tokens=9)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-model-version"] == "1"
    *pieces, last, done = events
    assert done == "[DONE]"
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == greedy_text(9)
    assert [piece["choices"][0]["finish_reason"] for piece in pieces] == [None] * len(pieces)
    assert last["choices"] == [
        {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}
    ]
    assert len({event["id"] for event in [*pieces, last]}) == 1
    assert not any("usage" in event for event in [*pieces, last])


def test_a_stream_of_a_chat(site: Site) -> None:
    _, events = stream(site, "/v1/chat/completions", messages=MESSAGES, max_tokens=9, model="chat")
    first, *pieces, last, done = events
    assert done == "[DONE]"
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    whole = site.http.post(
        "/v1/chat/completions",
        json={"messages": MESSAGES, "max_tokens": 9, "model": "chat", "temperature": 0},
    ).json()
    text = "".join(piece["choices"][0]["delta"]["content"] for piece in pieces)
    assert text == whole["choices"][0]["message"]["content"]
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/completions", {"prompt": PROMPT}), ("/v1/chat/completions", {"messages": MESSAGES})],
)
def test_usage_at_the_end_of_a_stream(site: Site, path: str, body: dict[str, Any]) -> None:
    options = {"stream_options": {"include_usage": True}, "max_tokens": 5, "ignore_eos": True}
    _, events = stream(site, path, **body, **options)
    *others, usage, done = events
    assert done == "[DONE]"
    assert all(event["usage"] is None for event in others)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 5
    assert others[-1]["choices"][0]["finish_reason"] == "length"


def test_a_chat_answer_is_what_follows_the_template(site: Site) -> None:
    ids = encode_prompt(TOKENIZER, [{"role": "user", "content": "Hello"}])
    answer = site.http.post(
        "/v1/chat/completions",
        json={"messages": MESSAGES, "temperature": 0, "max_tokens": 10, "ignore_eos": True},
    ).json()
    expected = TOKENIZER.decode(greedy_without_cache(CHAT, ids, 10))
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": expected,
        "refusal": None,
    }
    assert (answer["model"], answer["usage"]["prompt_tokens"]) == ("chat", len(ids))


def test_a_chat_goes_on_until_the_context_ends(site: Site) -> None:
    body = {"messages": MESSAGES, "temperature": 0, "ignore_eos": True}
    answer = site.http.post("/v1/chat/completions", json=body).json()
    assert answer["usage"]["total_tokens"] == 64


def test_content_may_come_in_parts_and_the_newer_limit_wins(site: Site) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    answers = [
        site.http.post(
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": content}], "temperature": 0, **limits},
        ).json()
        for content, limits in (
            ("Hello", {"max_tokens": 5}),
            (parts, {"max_tokens": 9, "max_completion_tokens": 5}),
        )
    ]
    assert answers[0]["choices"] == answers[1]["choices"]
    assert answers[0]["usage"] == answers[1]["usage"]


def test_a_base_model_continues_the_plain_text_of_a_chat(site: Site) -> None:
    messages = [
        {"role": "user", "content": "a question"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": "words"},
    ]
    body = {"messages": messages, "model": "base", "temperature": 0, "max_tokens": 5}
    answer = site.http.post("/v1/chat/completions", json=body).json()
    assert answer["usage"]["prompt_tokens"] == len(TOKENIZER.encode("a question\nanswer\nwords"))


def test_without_a_name_chat_takes_the_finetuned_and_completion_the_newest(site: Site) -> None:
    chat = site.http.post("/v1/chat/completions", json={"messages": MESSAGES}).json()
    assert (chat["model"], site.complete(PROMPT)["model"]) == ("chat", "base")


def test_the_list_of_models(site: Site) -> None:
    answer = site.http.get("/v1/models").json()
    assert answer["object"] == "list"
    assert [card["id"] for card in answer["data"]] == ["base", "chat"]
    card = answer["data"][1]
    pointer = site.service.models.resolve("chat").pointer
    assert card == site.http.get("/v1/models/chat").json()
    assert card == {
        "id": "chat",
        "object": "model",
        "created": int(pointer.published_at.timestamp()),
        "owned_by": "ryan-gpt",
        "version": 1,
        "pinned": False,
        "checkpoint_id": pointer.checkpoint_id,
        "sha256": pointer.manifest_sha256,
        "stage": "finetune",
        "max_model_len": 64,
    }


def test_a_dozen_requests_at_once_get_their_own_answers(site: Site) -> None:
    prompts = [IDS[:length] for length in range(1, 13)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(
            pool.map(
                lambda ids: site.complete(ids, model="base", max_tokens=20, ignore_eos=True),
                prompts,
            )
        )
    for ids, answer in zip(prompts, answers, strict=True):
        expected = TOKENIZER.decode(greedy_without_cache(BASE, ids, 20))
        assert answer["choices"][0]["text"] == expected
