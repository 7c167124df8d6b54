"""A run that is still going on: it moves without a reload, survives one, and can be steered."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.quickstart import Trained
from tests.support.browsers import Tab
from tests.support.platforms import RunningPlatform
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ENDLESS = "1000000"
STEPS = re.compile(r"[\d,]+ / 1,000,000 steps")
PATIENCE_SECONDS = 240
"""Training yields to everything else on the machine, and starting it takes torch's import."""
MODEL = {
    "model": "endless", "max_steps": ENDLESS, "d_model": "64", "num_heads": "2", "d_ff": "128",
    "context_length": "64",
}  # fmt: skip
INTERVALS = {"log_interval": "2", "save_interval": "1000000", "eval_interval": "1000000"}


def test_a_run_moves_without_reload_and_is_the_same_after_one(
    trained: Trained, tab: Tab, platform: RunningPlatform
) -> None:
    page = start_endless_run(tab, tokens_of(platform, trained))
    wait_until(lambda: num_points(page) > 3, "the curve moves", seconds=PATIENCE_SECONDS)
    before = num_points(page)
    wait_until(lambda: num_points(page) > before, "the curve goes on", seconds=PATIENCE_SECONDS)
    seen = step(page)
    page.reload()
    expect(page.locator("[data-chart=Loss] canvas")).to_be_visible()
    assert step(page) >= seen
    assert num_points(page) > before
    pause_resume_cancel(page)
    job_id = page.url.rsplit("/", 1)[1]
    with platform.client() as client:
        job = client.job(job_id)
        assert (job.state, job.attempt) == ("cancelled", 2)
        assert client.checkpoints(job_id)  # what pausing wrote


def tokens_of(platform: RunningPlatform, trained: Trained) -> str:
    """The id of the token set that the quickstart pretrained on."""
    with platform.client() as client:
        return client.job(trained.jobs["train"]).inputs["tokens"]


def start_endless_run(tab: Tab, tokens: str) -> Page:
    """A single job from a preset, on those tokens."""
    page = tab.open("new?kind=train")
    page.get_by_label("Preset").select_option(label="quickstart: train")
    page.locator("[data-field=tokens]").select_option(value=json.dumps(tokens))
    for field, value in MODEL.items():
        page.locator(f"[data-field={field}]").fill(value)
    page.get_by_text(re.compile("more options")).click()
    for field, value in INTERVALS.items():
        page.locator(f"[data-field={field}]").fill(value)
    expect(page.locator("[data-verdict=valid]")).to_be_visible()
    page.get_by_role("button", name="Start job").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("train")
    expect(badge(page)).to_have_text("Running", timeout=PATIENCE_SECONDS * 1000)
    return page


def pause_resume_cancel(page: Page) -> None:
    """Steer the run by the buttons, and see the page say so."""
    patience = PATIENCE_SECONDS * 1000
    page.get_by_role("button", name="Pause").click()
    expect(badge(page)).to_have_text("Paused", timeout=patience)
    at = step(page)
    page.get_by_role("button", name="Resume").click()
    expect(badge(page)).to_have_text("Running", timeout=patience)
    wait_until(
        lambda: step(page) > at, "the run goes on from its checkpoint", seconds=PATIENCE_SECONDS
    )
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Keep it").click()
    expect(badge(page)).to_have_text("Running")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    expect(badge(page)).to_have_text("Cancelled", timeout=patience)
    expect(page.get_by_role("button", name="Retry")).to_be_visible()


def badge(page: Page) -> Locator:
    """The state beside the job's name."""
    return page.locator(".page-head .badge")


def num_points(page: Page) -> int:
    """How many points the curve of the loss shows."""
    chart = page.locator("[data-chart=Loss]")
    return int(chart.get_attribute("data-points") or 0) if chart.count() else 0


def step(page: Page) -> int:
    """The step that the page shows as done."""
    text = page.get_by_role("region", name="Progress").get_by_text(STEPS).inner_text()
    return int(text.split("/")[0].replace(",", ""))
