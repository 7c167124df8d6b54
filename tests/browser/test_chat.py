"""Chat in the browser: both kinds of model, streamed, stopped, and what is asked of the engine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Page, Request, expect

from tests.browser.quickstart import Trained
from tests.support.browsers import Tab

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

EXAMPLES = [
    "The capital of France is", "Albert Einstein was born in", "Hello", "How are you?",
    "What is your name?",
]  # fmt: skip
ANSWERED = "[data-turn=model]:not([data-finish=''])"
WATCH_ANSWER = """() => {
    window.shown = new Set();
    new MutationObserver(() => {
        const text = document.querySelector("[data-turn=model] .text")?.textContent;
        if (text) window.shown.add(text);
    }).observe(
        document.querySelector(".turns"), {subtree: true, characterData: true, childList: true});
}"""
SLOW_LINE = {"offline": False, "latency": 0, "downloadThroughput": 2000, "uploadThroughput": -1}
"""Bytes a second: each piece of an answer arrives by itself, however fast the engine is."""


def sent_bodies(page: Page) -> list[tuple[str, dict[str, Any]]]:
    """What the page will send for generation, filled in as it does."""
    sent: list[tuple[str, dict[str, Any]]] = []

    def on_request(request: Request) -> None:
        if request.method == "POST" and "/inference/" in request.url:
            sent.append((request.url.split("/inference")[1], json.loads(request.post_data or "")))

    page.on("request", on_request)
    return sent


def test_a_chat_model_answers_piece_by_piece(trained: Trained, tab: Tab) -> None:
    del trained
    page = tab.open("chat?model=quickstart-chat")
    sent = sent_bodies(page)
    buttons = page.get_by_role("group", name="Examples").get_by_role("button")
    expect(buttons).to_have_text(EXAMPLES)
    page.get_by_label("Tokens at most").fill("16")  # two turns have to fit into 64 tokens
    page.evaluate(WATCH_ANSWER)
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", SLOW_LINE)
    buttons.filter(has_text="Hello").click()
    answer = page.locator("[data-turn=model]")
    page.wait_for_selector(ANSWERED)
    expect(answer).to_contain_text("quickstart-chat:")
    *parts, whole = page.evaluate("[...window.shown]")
    assert parts, "it was shown at once"
    assert all(whole.startswith(part) for part in parts), "it did not grow"
    ((path, body),) = sent
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "Hello"}]
    assert (body["model"], body["stream"]) == ("quickstart-chat", True)
    assert (body["min_tokens"], body["temperature"]) == (5, 0.7)
    page.get_by_label("Message").fill("And then?")
    page.keyboard.press("Enter")
    expect(page.locator(ANSWERED)).to_have_count(2)
    assert [turn["role"] for turn in sent[1][1]["messages"]] == ["user", "assistant", "user"]
    page.reload()  # the conversation is this tab's
    expect(page.locator("[data-turn=model]")).to_have_count(2)


def test_a_base_model_continues_the_text(trained: Trained, tab: Tab) -> None:
    del trained
    page = tab.open("chat")
    page.get_by_label("Model").select_option("quickstart")
    expect(page.get_by_label("Tokens at least")).to_have_value("10")
    sent = sent_bodies(page)
    slider = page.get_by_label("Temperature")
    assert (slider.get_attribute("min"), slider.get_attribute("max")) == ("0.01", "0.99")
    slider.focus()
    page.keyboard.press("Home")
    page.get_by_role("button", name="The capital of France is").click()
    page.wait_for_selector(ANSWERED)
    expect(page.locator("[data-turn=model]")).to_contain_text("The capital of France is")
    ((path, body),) = sent
    assert (path, body["prompt"]) == ("/v1/completions", "The capital of France is")
    assert (body["min_tokens"], body["temperature"]) == (10, 0.01)


def test_an_answer_can_be_stopped(trained: Trained, tab: Tab) -> None:
    del trained
    page = tab.open("chat?model=quickstart")

    def endless(route: Any) -> None:  # as many tokens as fit, so that there is time to stop
        body = json.loads(route.request.post_data)
        route.continue_(post_data=json.dumps({**body, "ignore_eos": True, "max_tokens": 60}))

    page.route("**/inference/v1/completions", endless)
    page.evaluate(
        """() => { const real = window.fetch; window.fetch = async (url, options) => {
            const response = await real(url, options);
            if (!String(url).includes('completions')) return response;
            const slow = new TransformStream({ async transform(chunk, out) {
                await new Promise((go) => setTimeout(go, 300)); out.enqueue(chunk); } });
            const body = response.body.pipeThrough(slow, {signal: options.signal});
            return new Response(body, response);
        }; }"""
    )
    page.get_by_role("button", name="Hello").click()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("[data-turn=model]")).to_have_attribute("data-finish", "stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_another_version_is_pinned_and_answers(trained: Trained, tab: Tab) -> None:
    del trained
    page = tab.open("chat?model=quickstart")
    version = page.get_by_label("Version")
    expect(version.locator("option")).to_have_count(3)  # two versions, and the newest
    version.select_option("1")
    expect(page.locator("[data-answering='1']")).to_be_visible()
    version.select_option("newest")
    expect(page.locator("[data-answering='2']")).to_be_visible()
