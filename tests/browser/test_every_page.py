"""What holds on every page: no barrier for anybody, no sideways scroll, and text stays text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from ryangpt import Client
from shared.contracts.jobs import PipelineCreate
from tests.browser.quickstart import Trained
from tests.support.browsers import Tab, open_tab, overflow, serious_findings
from tests.support.platforms import RunningPlatform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "javascript:alert(3)",
    "<svg/onload=alert(4)>",
    "{{constructor.constructor('alert(5)')()}}",
    "</title><iframe srcdoc='<script>alert(6)</script>'>",
)


def addresses(trained: Trained) -> dict[str, str]:
    """Every page, with something on it."""
    train, chat = trained.jobs["train"], trained.jobs["chat"]
    return {
        "jobs": "jobs", "job": f"jobs/{train}", "data job": f"jobs/{trained.jobs['docs']}",
        "report": f"jobs/{train}/report", "compare": f"compare?jobs={train},{chat}",
        "recipe": "new?recipe=quickstart", "single": "new?kind=train", "models": "models",
        "chat": "chat", "data": "data", "workers": "workers",
    }  # fmt: skip


def settle(tab: Tab) -> None:
    """Wait until the page has its heading and is loading nothing any more."""
    expect(tab.page.get_by_role("heading", level=1)).to_be_visible()
    expect(tab.page.get_by_role("status", name="Loading")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_kept_out(
    browser: Browser, platform: RunningPlatform, trained: Trained, scheme: str
) -> None:
    with open_tab(browser, platform.url, color_scheme=scheme) as tab:
        for name, address in addresses(trained).items():
            tab.open(address)
            settle(tab)
            assert serious_findings(tab.page) == [], f"{name} in {scheme}"


def test_nothing_scrolls_sideways_on_a_phone(
    browser: Browser, platform: RunningPlatform, trained: Trained
) -> None:
    phone = {"width": 360, "height": 740}
    with open_tab(browser, platform.url, viewport=phone, has_touch=True) as tab:
        for name, address in addresses(trained).items():
            tab.open(address)
            settle(tab)
            assert overflow(tab.page) == 0, name


def test_the_keyboard_reaches_what_the_mouse_does(tab: Tab, trained: Trained) -> None:
    page = tab.open("jobs")
    settle(tab)
    expect(page.locator("tr[data-job]")).not_to_have_count(0)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the page")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    row = page.locator(f"tr[data-job={trained.jobs['chat']}] a")
    for _ in range(60):
        page.keyboard.press("Tab")
        if row.evaluate("element => element === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("chat")
    expect(page.get_by_role("heading", level=1)).to_be_focused()


def test_text_from_outside_stays_text(
    platform: RunningPlatform, trained: Trained, tab: Tab, tmp_path: Path
) -> None:
    with platform.client() as client:
        job_id, dataset_id = hostile_jobs(client, tmp_path)
    pages = [*addresses(trained).values(), f"jobs/{job_id}", f"jobs/{job_id}/report"]
    for address in [*pages, f"data?show={dataset_id}", f"new?from={job_id}", *HOSTILE]:
        tab.open(address)
        settle(tab)
    page = tab.open("jobs")
    for text in HOSTILE:
        expect(page.get_by_text(text, exact=True).first).to_be_visible()
    page = tab.open(f"data?show={dataset_id}")
    for text in HOSTILE:
        expect(page.get_by_role("region", name="Preview").get_by_text(text)).to_be_visible()
    page = tab.open("chat?model=quickstart")
    page.get_by_label("Text to continue").fill(HOSTILE[1])
    page.keyboard.press("Enter")
    expect(page.locator(".turn-user")).to_have_text(HOSTILE[1])
    page.wait_for_selector("[data-turn=model]:not([data-finish=''])")
    assert page.locator("main img, main iframe, main script").count() == 0


def hostile_jobs(client: Client, folder: Path) -> tuple[str, str]:
    """A dataset of hostile rows under a hostile name, and jobs of every hostile name."""
    file = folder / "rows<img src=x onerror=alert(7)>.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in HOSTILE), "utf-8")
    upload = client.upload(file)
    jobs: dict[str, Any] = {
        f"job-{number}": {
            "kind": "ingest",
            "name": name,
            "spec": {"source": "jsonl", "upload": upload.id, "name": name},
        }
        for number, name in enumerate(HOSTILE)
    }
    pipeline = PipelineCreate.model_validate({"name": HOSTILE[1], "jobs": jobs})
    made = client.submit_pipeline(pipeline)
    ended = [client.wait(job.id) for job in made.jobs.values()]
    assert {job.state for job in ended} == {"succeeded"}
    return ended[1].id, ended[1].outputs["dataset"]
