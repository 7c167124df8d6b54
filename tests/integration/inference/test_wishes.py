"""Several answers, logprobs, echo, penalties and biases: what a good request can ask for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.integration.inference.conftest import BASE, CHAT, Site
from tests.support.models import small_tokenizer
from tests.support.serving import greedy_without_cache

TOKENIZER = small_tokenizer()
PROMPT = "The capital of France is"
IDS = TOKENIZER.encode(PROMPT)
USER = {"role": "user", "content": "Hello"}


@torch.inference_mode()
def logprobs_of(ids: list[int]) -> torch.Tensor:
    """The slow twin: row i holds the logprobs of what follows `ids[: i + 1]`."""
    return BASE(torch.tensor([ids]))[0].float().log_softmax(-1)


def events(site: Site, path: str, **body: Any) -> Iterator[dict[str, Any]]:
    with site.http.stream("POST", path, json={"stream": True, "temperature": 0, **body}) as answer:
        for line in answer.iter_lines():
            if line and line != "data: [DONE]":
                yield json.loads(line.removeprefix("data: "))


def test_several_answers_are_numbered_prompt_by_prompt(site: Site) -> None:
    prompts = ["one", "two words"]
    body = {"model": "base", "max_tokens": 8, "ignore_eos": True}
    alone = [site.complete(prompt, **body)["choices"][0]["text"] for prompt in prompts]
    answer = site.complete(prompts, **body, n=2)
    choices = answer["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert [choice["text"] for choice in choices] == [alone[0], alone[0], alone[1], alone[1]]
    num_prompt = sum(len(TOKENIZER.encode(prompt)) for prompt in prompts)
    assert answer["usage"]["prompt_tokens"] == num_prompt
    assert answer["usage"]["completion_tokens"] == 32


def test_answers_with_one_seed_differ_and_repeat(site: Site) -> None:
    body = {"model": "base", "max_tokens": 20, "n": 3, "seed": 5, "temperature": 1.0}
    first, again = (site.complete(PROMPT, **body)["choices"] for _ in range(2))
    assert first == again
    assert len({choice["text"] for choice in first}) == 3
    alone = site.complete(PROMPT, **{**body, "n": 1})["choices"]
    assert alone == first[:1]


def test_a_stream_of_several_answers_carries_each_whole(site: Site) -> None:
    body = {"model": "base", "prompt": ["one", "two words"], "n": 2, "max_tokens": 8}
    whole = site.complete(**body)["choices"]
    texts, ends = dict.fromkeys(range(4), ""), {}
    for event in events(site, "/v1/completions", **body):
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
            if choice["finish_reason"]:
                assert choice["index"] not in ends
                ends[choice["index"]] = choice["finish_reason"]
    assert texts == {choice["index"]: choice["text"] for choice in whole}
    assert ends == {choice["index"]: choice["finish_reason"] for choice in whole}


def test_a_chat_stream_of_two_opens_each_with_its_role(site: Site) -> None:
    body = {"model": "chat", "messages": [USER], "n": 2, "max_tokens": 4}
    roles = [
        choice["index"]
        for event in events(site, "/v1/chat/completions", **body)
        for choice in event["choices"]
        if "role" in choice["delta"]
    ]
    assert roles == [0, 1]


def test_logprobs_are_the_models_own_whatever_the_sampling(site: Site) -> None:
    body = {"model": "base", "max_tokens": 6, "logprobs": 2, "ignore_eos": True, "seed": 3}
    choice = site.complete(
        IDS, **{**body, "temperature": 1.5, "top_k": 7, "presence_penalty": 1.0}
    )["choices"][0]
    told = choice["logprobs"]
    assert len(told["tokens"]) == 6
    ids = list(IDS)
    for place, text in enumerate(told["tokens"]):
        row = logprobs_of(ids)[-1]
        best = row.topk(2)
        expected = {
            _text(int(token)): float(value)
            for value, token in zip(best.values, best.indices, strict=True)
        }
        token = next(token for token in range(300) if _text(token) == text)
        expected[text] = float(row[token])
        assert told["token_logprobs"][place] == pytest.approx(float(row[token]), abs=1e-4)
        assert told["top_logprobs"][place] == pytest.approx(expected, abs=1e-4)
        ids.append(token)
    assert TOKENIZER.decode(ids[len(IDS) :]) == choice["text"]
    assert told["text_offset"][0] == 0


def _text(token: int) -> str:
    if token < 3:
        return ("<|endoftext|>", "<|user|>", "<|assistant|>")[token]
    content = TOKENIZER.token_contents[token]
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_echo_scores_a_prompt_as_an_evaluation_harness_asks(site: Site, max_tokens: int) -> None:
    texts = ["question answer", "learning a language"]
    prompts = [TOKENIZER.encode(text) for text in texts]
    body = {"model": "base", "echo": True, "logprobs": 1, "max_tokens": max_tokens, "seed": 1234}
    answer = site.complete(prompts, **body)
    for text, ids, choice in zip(texts, prompts, answer["choices"], strict=True):
        told = choice["logprobs"]
        assert choice["text"].startswith(text)
        assert len(told["tokens"]) == len(ids) + max_tokens
        assert (told["token_logprobs"][0], told["top_logprobs"][0]) == (None, None)
        rows = logprobs_of(ids)
        for place in range(1, len(ids)):
            row = rows[place - 1]
            assert told["token_logprobs"][place] == pytest.approx(float(row[ids[place]]), abs=1e-4)
            assert max(told["top_logprobs"][place].values()) == pytest.approx(
                float(row.max()), abs=1e-4
            )
        lengths = [len(TOKENIZER.decode([token])) for token in ids]
        assert told["text_offset"][: len(ids)] == [sum(lengths[:i]) for i in range(len(ids))]


def test_a_stream_with_echo_and_logprobs_adds_up_to_the_whole(site: Site) -> None:
    body = {"model": "base", "prompt": PROMPT, "echo": True, "logprobs": 2, "max_tokens": 7}
    whole = site.complete(**body)["choices"][0]
    text, told = "", {name: [] for name in whole["logprobs"]}
    for event in events(site, "/v1/completions", **body):
        for choice in event["choices"]:
            text += choice["text"]
            for name, values in (choice["logprobs"] or {}).items():
                told[name] += values
    assert text == whole["text"] == PROMPT + TOKENIZER.decode(greedy_without_cache(BASE, IDS, 7))
    assert told["tokens"] == whole["logprobs"]["tokens"]
    assert told["text_offset"] == whole["logprobs"]["text_offset"]
    assert told["token_logprobs"][1:] == pytest.approx(whole["logprobs"]["token_logprobs"][1:])


def test_chat_logprobs_have_their_own_shape(site: Site) -> None:
    body = {"model": "chat", "messages": [USER], "temperature": 0, "max_tokens": 5}
    wishes = {"logprobs": True, "top_logprobs": 3, "ignore_eos": True}
    response = site.http.post("/v1/chat/completions", json={**body, **wishes})
    choice = response.json()["choices"][0]
    content = choice["logprobs"]["content"]
    assert len(content) == 5
    spelled = b"".join(bytes(entry["bytes"]) for entry in content)
    assert spelled.decode("utf-8", errors="replace") == choice["message"]["content"]
    for entry in content:
        assert [set(other) for other in entry["top_logprobs"]] == [
            {"token", "logprob", "bytes"}
        ] * 3
        assert entry["top_logprobs"][0]["token"] == entry["token"]  # greedy
        assert entry["top_logprobs"][0]["logprob"] == entry["logprob"] <= 0
    streamed = [
        entry
        for event in events(site, "/v1/chat/completions", **body, **wishes)
        for choice in event["choices"]
        for entry in (choice["logprobs"] or {"content": []})["content"]
    ]
    assert [entry["token"] for entry in streamed] == [entry["token"] for entry in content]


def test_best_of_returns_the_likeliest_a_token(site: Site) -> None:
    body = {"model": "base", "max_tokens": 8, "seed": 9, "temperature": 1.0, "ignore_eos": True}
    every = site.complete(PROMPT, **body, n=5, logprobs=0)["choices"]
    means = [sum(choice["logprobs"]["token_logprobs"]) / 8 for choice in every]
    ranked = [every[i]["text"] for i in sorted(range(5), key=lambda i: -means[i])]
    answer = site.complete(PROMPT, **body, n=2, best_of=5)
    assert [choice["text"] for choice in answer["choices"]] == ranked[:2]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert all(choice["logprobs"] is None for choice in answer["choices"])
    assert answer["usage"]["completion_tokens"] == 40
    assert answer["usage"]["prompt_tokens"] == len(IDS)


def test_a_bias_bans_and_forces(site: Site) -> None:
    first = greedy_without_cache(BASE, IDS, 1)[0]
    forced = next(token for token in range(100, 200) if token != first)
    for bias, expected in (({str(first): -100}, None), ({str(forced): 100}, forced)):
        choice = site.complete(
            IDS, model="base", max_tokens=1, logit_bias=bias, logprobs=0, ignore_eos=True
        )["choices"][0]
        (token,) = choice["logprobs"]["tokens"]
        assert token != _text(first)
        if expected is not None:
            assert token == _text(expected)


def test_penalties_keep_tokens_from_coming_again(site: Site) -> None:
    body = {"model": "base", "max_tokens": 20, "ignore_eos": True, "logprobs": 0}
    penalized = site.complete(IDS, **body, frequency_penalty=2.0, presence_penalty=2.0)
    plain = site.complete(IDS, **body)
    repeats = [
        len(answer["choices"][0]["logprobs"]["tokens"])
        - len(set(answer["choices"][0]["logprobs"]["tokens"]))
        for answer in (penalized, plain)
    ]
    assert repeats[0] <= repeats[1]
    strong = site.complete(IDS, **body, repetition_penalty=100.0)["choices"][0]
    tokens = strong["logprobs"]["tokens"]
    assert len(set(tokens)) == len(tokens)


def test_what_ended_the_text_can_be_shown(site: Site) -> None:
    ids = greedy_without_cache(BASE, IDS, 12)
    whole = TOKENIZER.decode(ids)
    stop = whole[5:7]
    cut = whole[: whole.index(stop)]
    body = {"model": "base", "max_tokens": 12, "include_stop_str_in_output": True}
    assert site.complete(IDS, **body, stop=stop)["choices"][0]["text"] == cut + stop
    last = ids[4]
    place = ids.index(last)
    for shown, count in ((False, place), (True, place + 1)):
        body = {"model": "base", "max_tokens": 12, "include_stop_str_in_output": shown}
        choice = site.complete(IDS, **body, stop_token_ids=[last])["choices"][0]
        assert choice["text"] == TOKENIZER.decode(ids[:count])
        assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("role", ["system", "developer"])
def test_instructions_go_before_the_next_user_turn(site: Site, role: str) -> None:
    folded = [{"role": "user", "content": "Be brief.\n\nHello"}]
    given = [{"role": role, "content": "Be brief."}, USER]
    answers = [
        site.http.post(
            "/v1/chat/completions",
            json={"model": "chat", "messages": messages, "temperature": 0, "max_tokens": 6},
        ).json()
        for messages in (given, folded)
    ]
    assert answers[0]["choices"] == answers[1]["choices"]
    assert answers[0]["usage"] == answers[1]["usage"]


def test_tokenize_and_detokenize_are_inverse_and_agree_with_usage(site: Site) -> None:
    text = "question: één 🙂 <|user|>"
    answer = site.http.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert answer["tokens"] == TOKENIZER.encode(text)
    assert answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == 64
    assert answer["token_strs"] == [_text(token) for token in answer["tokens"]]
    back = site.http.post("/detokenize", json={"tokens": answer["tokens"]}).json()
    assert back == {"prompt": text}
    chat = site.http.post("/tokenize", json={"messages": [USER], "model": "chat"}).json()
    usage = site.http.post(
        "/v1/chat/completions", json={"messages": [USER], "model": "chat", "max_tokens": 1}
    ).json()["usage"]
    assert (chat["count"], chat["token_strs"]) == (usage["prompt_tokens"], None)
    info = site.http.get("/tokenizer_info").json()
    assert (info["eos_token"], info["model_max_length"]) == ("<|endoftext|>", 64)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/tokenize", {}, "either prompt or messages"),
        ("/tokenize", {"prompt": "a", "messages": [USER]}, "either prompt or messages"),
        ("/tokenize", {"prompt": "a\ud800"}, "unicode"),
        ("/detokenize", {"tokens": [300]}, "Token 300 is not in the vocabulary"),
        ("/detokenize", {"tokens": "abc"}, "valid list"),
        ("/detokenize", {}, "Field required"),
    ],
)
def test_a_bad_text_or_id_is_400(site: Site, path: str, body: dict[str, Any], message: str) -> None:
    content = json.dumps(body)
    headers = {"content-type": "application/json"}
    response = site.http.post(path, content=content, headers=headers)
    assert response.status_code == 400
    assert message.lower() in response.json()["error"]["message"].lower()


def test_every_logprob_is_finite_json(site: Site) -> None:
    """A banned token has no finite logit of its own; what is told is from before the ban."""
    body = {"model": "base", "max_tokens": 4, "logprobs": 20, "min_tokens": 4}
    choice = site.complete(IDS, **body)["choices"][0]
    for top in choice["logprobs"]["top_logprobs"]:
        assert len(top) >= 20
        assert all(math.isfinite(value) for value in top.values())
    assert CHAT.config.vocab_size == 300
