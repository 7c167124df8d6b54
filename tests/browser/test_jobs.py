"""Jobs in the browser: sent from the form, seen as they move, steered."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.quickstart import PROMPT, Trained
from tests.support.browsers import Tab
from tests.support.platforms import RunningPlatform

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_what_the_form_sent_is_what_was_typed(trained: Trained, platform: RunningPlatform) -> None:
    with platform.client() as client:
        specs = {key: client.job(id_).spec for key, id_ in trained.jobs.items()}
        checkpoints = client.checkpoints(trained.jobs["train"])
    assert (specs["docs"]["source"], specs["docs"]["max_documents"]) == ("python_docs", 400)
    assert (specs["tokens"]["vocab_size"], specs["tokens"]["validation_fraction"]) == (512, 0.1)
    train = specs["train"]
    assert (train["max_steps"], train["d_model"], train["lr"]) == (24, 64, 0.003)
    assert train["sample_prompts"] == [PROMPT]
    assert train["init"] == "zero_residual"  # the recipe's, untouched
    assert [one.step for one in checkpoints] == [12, 24]


def test_a_finished_run_shows_what_it_measured(trained: Trained, tab: Tab) -> None:
    page = tab.open(f"jobs/{trained.jobs['train']}")
    expect(page.get_by_role("heading", level=1)).to_have_text("train")
    expect(page.get_by_text("24 / 24 steps")).to_be_visible()
    for title in ("Loss", "Bits per byte", "Learning rate", "Tokens per second"):
        expect(page.locator(f"[data-chart='{title}'] canvas")).to_be_visible()
    loss = page.locator("[data-chart=Loss] .legend-entry")
    assert loss.all_inner_texts()[0].startswith("training")
    assert loss.all_inner_texts()[1].startswith("validation")
    rate = page.locator("[data-chart='Learning rate'] .legend-entry")
    assert rate.count() == 1  # no smoothing, so no second line
    expect(page.locator(".sample").first).to_contain_text(PROMPT)
    expect(
        page.get_by_role("region", name="Checkpoints").get_by_text("quickstart:")
    ).not_to_have_count(0)
    page.get_by_role("link", name="Report").click()
    expect(page.get_by_role("heading", name="Model card")).to_be_visible()
    expect(page.locator("img.plot")).to_be_visible()


def test_a_mistake_is_shown_at_its_field_and_nothing_is_written(
    trained: Trained, tab: Tab, platform: RunningPlatform
) -> None:
    del trained
    with platform.client() as client:
        before = [job.id for job in client.jobs()]
    page = tab.open("new?recipe=quickstart")
    train = page.locator("[data-job-key=train]")
    train.locator("[data-field=lr]").fill("fast")
    expect(train.locator("[data-field=lr]")).to_have_attribute("aria-invalid", "true")
    train.locator("[data-field=num_heads]").fill("3")
    train.locator("[data-field=lr]").fill("0.5e-3")
    error = train.locator("[id$=num_heads-error]")
    expect(error).to_contain_text("head")
    page.get_by_role("button", name="Start pipeline").click()
    expect(train.locator("[data-field=num_heads]")).to_be_focused()
    expect(page.locator("[data-verdict=invalid]")).to_have_text("One thing to correct")
    train.locator("[data-field=num_heads]").fill("4")
    expect(page.locator("[data-verdict=valid]")).to_be_visible()
    with platform.client() as client:
        assert [job.id for job in client.jobs()] == before


def test_the_request_can_be_copied_as_curl(trained: Trained, tab: Tab, tmp_path: Path) -> None:
    del trained, tmp_path
    tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = tab.open("new?kind=ingest")
    page.locator("[data-field=source]").select_option(label="python_docs")
    page.locator("[data-field=name]").fill("it's mine")
    expect(page.locator("[data-verdict=valid]")).to_be_visible()
    page.get_by_role("button", name="Copy as curl").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == (
        f"curl -sS '{tab.url}/v1/jobs' \\\n  -H 'Content-Type: application/json' \\\n  -d "
        '\'{\n  "kind": "ingest",\n  "spec": {\n    "source": "python_docs",\n'
        "    \"name\": \"it'\\''s mine\"\n  }\n}'"
    )


def test_runs_are_compared(trained: Trained, tab: Tab) -> None:
    page = tab.open("jobs")
    for key in ("train", "chat"):
        page.locator(f"tr[data-job={trained.jobs[key]}] input").check()
    page.get_by_role("link", name="Compare 2 runs").click()
    expect(page.locator("[data-chart=loss] .legend-entry")).to_have_count(2)
    expect(page.get_by_role("row", name="Lowest bits per byte")).to_be_visible()
