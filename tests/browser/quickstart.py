"""The quickstart, made small in the form and sent from there, until both models answer."""

from __future__ import annotations

from dataclasses import dataclass

from playwright.sync_api import Page, expect

from tests.support.browsers import Tab
from tests.support.journey import wait_until_served
from tests.support.platforms import RunningPlatform

PROMPT = "<img src=x onerror=alert(1)>"
"""Of a sample: what a page shows, and must not become."""
CHANGES = {
    "docs": {"max_documents": "400"},
    "tokens": {"vocab_size": "512", "validation_fraction": "0.1"},
    "questions": {"max_documents": "400"},
    "question-tokens": {"validation_fraction": "0.1"},
    "train": {
        "context_length": "64", "num_layers": "2", "d_model": "64", "num_heads": "2", "d_ff": "128",
        "max_steps": "24",
    },
    "chat": {"max_steps": "10"},
}  # fmt: skip
RARE = {
    "train": {"log_interval": "2", "eval_interval": "8", "save_interval": "12",
              "eval_tokens": "2048", "sample_tokens": "8", "sample_prompts": PROMPT},
    "chat": {"log_interval": "2", "eval_interval": "5", "save_interval": "5",
             "eval_tokens": "2048", "sample_tokens": "8"},
}  # fmt: skip
"""Fields that stand among the further options. (Of three checkpoints one may be left out: a run as
short as these is faster than storing.)"""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Ids of the jobs by key."""

    jobs: dict[str, str]


def train_through_the_form(tab: Tab, platform: RunningPlatform) -> Trained:
    """Fill the form in, send it, and wait for what it promises."""
    page = tab.open("new?recipe=quickstart")
    expect(page.locator("[data-job-key]")).to_have_count(6)
    for key, fields in CHANGES.items():
        fill(page, key, fields, RARE.get(key, {}))
    expect(page.locator("[data-verdict=valid]")).to_be_visible()
    page.get_by_role("button", name="Start pipeline").click()
    expect(page.locator("tr[data-job]")).to_have_count(6)
    with platform.client() as client:
        jobs = {job.pipeline_key or "": job.id for job in client.jobs()}
        ended = {job.state for job in (client.wait(id_) for id_ in jobs.values())}
    assert ended == {"succeeded"}, platform.last_log_lines()
    expect(page.locator("tr[data-state=succeeded]")).to_have_count(6)  # without a reload
    for model in ("quickstart", "quickstart-chat"):
        wait_until_served(platform, model)
    return Trained(jobs=jobs)


def fill(page: Page, key: str, fields: dict[str, str], rare: dict[str, str]) -> None:
    """Fill in fields of one job of the pipeline."""
    step = page.locator(f"[data-job-key='{key}']")
    if step.get_attribute("open") is None:
        step.locator("summary").first.click()
    if rare:
        step.locator("details summary").click()
    for name, value in {**fields, **rare}.items():
        step.locator(f"[data-field={name}]").fill(value)
