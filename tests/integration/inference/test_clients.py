"""The clients that people use: OpenAI's own (sync, async, streaming) and LangChain's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import openai
import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

from services.inference.network import Network
from shared.text.chat import encode_prompt
from tests.integration.inference.conftest import BASE, CHAT, Site, serve
from tests.support.models import small_tokenizer
from tests.support.serving import greedy_without_cache
from tests.support.waiting import wait_until

TOKENIZER = small_tokenizer()
PROMPT = "The capital of France is"
GREEDY = {"temperature": 0, "max_tokens": 9, "extra_body": {"ignore_eos": True}}


@pytest.fixture
def client(site: Site) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{site.url}/v1", api_key="unused") as client:
        yield client


def base_text() -> str:
    return TOKENIZER.decode(greedy_without_cache(BASE, TOKENIZER.encode(PROMPT), 9))


def chat_text(question: str = "Hello") -> str:
    ids = encode_prompt(TOKENIZER, [{"role": "user", "content": question}])
    return TOKENIZER.decode(greedy_without_cache(CHAT, ids, 9))


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["base", "chat"]
    assert client.models.retrieve("chat").owned_by == "ryan-gpt"


def test_a_completion_and_its_request_id(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="base", prompt=PROMPT, logprobs=1, **GREEDY)
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason) == (base_text(), "length")
    assert answer._request_id
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 9
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert len(choice.logprobs.tokens) == 9


def test_a_stream_with_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": "Hello"}],
        stream=True,
        stream_options={"include_usage": True},
        **GREEDY,
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == chat_text()
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 9
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_stream_helper_rebuilds_the_message(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    stop = chat_text()[-3:]  # an answer cut by its length is an error to this helper
    with client.chat.completions.stream(
        model="chat", messages=messages, stop=stop, **GREEDY
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == chat_text()[: chat_text().index(stop)]
    assert final.choices[0].finish_reason == "stop"


def test_async_requests_at_once(site: Site) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{site.url}/v1", api_key="unused") as client:
            whole = client.chat.completions.create(
                model="chat", messages=[{"role": "user", "content": "Hello"}], **GREEDY
            )

            async def streamed() -> str:
                stream = await client.completions.create(
                    model="base", prompt=PROMPT, stream=True, **GREEDY
                )
                return "".join([chunk.choices[0].text async for chunk in stream])

            answer, text = await asyncio.gather(whole, streamed())
            return [answer.choices[0].message.content or "", text]

    assert asyncio.run(ask()) == [chat_text(), base_text()]


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="nobody", prompt="x")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="base", prompt=[5] * 100)
    assert long.value.code == "context_length_exceeded"
    assert long.value.type == "invalid_request_error"


def test_a_full_queue_is_retried_by_itself(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client waits as long as Retry-After says, and gets its answer."""
    released, forward = threading.Event(), Network.forward

    def wait_first(self: Network, *args: object) -> object:
        released.wait(60)
        return forward(self, *args)  # type: ignore[arg-type]

    folder = tmp_path_factory.mktemp("retry")
    with serve(folder, inference_slots=1, inference_queue=0) as site:
        site.publish("base", BASE)
        monkeypatch.setattr(Network, "forward", wait_first)
        with openai.OpenAI(base_url=f"{site.url}/v1", api_key="unused") as client:
            blocker = threading.Thread(target=site.complete, args=(PROMPT,))
            blocker.start()
            wait_until(lambda: site.service.engine.load == (1, 0), "the slot is taken")
            with pytest.raises(openai.RateLimitError):
                client.with_options(max_retries=0).completions.create(model="base", prompt="x")
            threading.Timer(0.2, released.set).start()
            answer = client.with_options(max_retries=5).completions.create(
                model="base", prompt=PROMPT, **GREEDY
            )
            blocker.join()
    assert answer.choices[0].text == base_text()


def test_langchain(site: Site) -> None:
    model = ChatOpenAI(
        model="chat",
        base_url=f"{site.url}/v1",
        api_key="unused",
        temperature=0,
        max_tokens=9,
        extra_body={"ignore_eos": True},
        stream_usage=True,
    )
    answer = model.invoke([HumanMessage("Hello")])
    assert answer.content == chat_text()
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 9
    instructed = model.invoke([SystemMessage("Be brief."), HumanMessage("Hello")])
    assert instructed.content == chat_text("Be brief.\n\nHello")
    chunks = list(model.stream([HumanMessage("Hello")]))
    assert "".join(str(chunk.content) for chunk in chunks) == chat_text()
    counts = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert [count["output_tokens"] for count in counts] == [9]
