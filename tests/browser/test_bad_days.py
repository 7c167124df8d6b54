"""Pages of an API alone: the door, an outage, long curves, and addresses of nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from shared.db.session import Database
from tests.support import rows
from tests.support.api_server import API_TOKEN, ApiServer, running_api
from tests.support.browsers import open_tab
from tests.support.long_runs import NUM_POINTS, long_run
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_the_door_opens_with_the_token_alone(browser: Browser, tmp_path: Path) -> None:
    with running_api(tmp_path) as server, open_tab(browser, server.url) as tab:
        page = tab.open("data")
        page.get_by_label("Token").fill("guess \N{SNOWMAN}")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_have_text("This is not the token.")
        page.get_by_label("Token").fill(API_TOKEN)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Data")
        assert API_TOKEN not in page.evaluate(
            "JSON.stringify({...localStorage, ...sessionStorage})"
        )
        assert page.evaluate("document.cookie") == ""
        (cookie,) = page.context.cookies()
        assert (cookie["sameSite"], cookie["httpOnly"]) == ("Strict", True)
        page.reload()
        expect(page.get_by_role("heading", level=1)).to_have_text("Data")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        assert page.context.cookies() == []


def test_an_outage_is_said_and_ends_by_itself(browser: Browser, tmp_path: Path) -> None:
    with (
        running_api(tmp_path, RYANGPT_API_TOKEN="") as server,
        open_tab(browser, server.url) as tab,
    ):
        page = tab.open("jobs")
        expect(page.get_by_text("No jobs yet")).to_be_visible()
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        lost = page.get_by_text("The connection to the platform is lost.")
        expect(lost).to_be_visible()
        with running_api(tmp_path, port=server.port, RYANGPT_API_TOKEN=""):
            expect(lost).to_have_count(0)
            page.request.post(f"{server.url}/v1/jobs", data=rows.INGEST)
            expect(page.locator("tr[data-state=queued]")).to_have_count(1)
        tab.errors[:] = [one for one in tab.errors if "ERR_" not in one]


def test_what_is_not_there_is_said(browser: Browser, api: ApiServer) -> None:
    with open_tab(browser, api.url) as tab:
        for address in ("jobs/job_00000000000000000000000000", "jobs/%2e%2e", "jobs/%zz"):
            expect(tab.open(address).get_by_role("alert")).to_be_visible()
        empty = {
            "data": "No data yet", "models": "No models yet", "workers": "No workers",
            "compare": "No runs chosen",
        }  # fmt: skip
        for section, said in empty.items():
            expect(tab.open(section).get_by_text(said)).to_be_visible()
        chat = tab.open("chat")
        expect(chat.get_by_text("The inference service cannot be reached.")).to_be_visible()


def test_a_curve_of_a_hundred_thousand_points_is_thinned_and_shown_in_detail(
    browser: Browser, api: ApiServer
) -> None:
    job_id = long_run(Database(api.database_url))
    with open_tab(browser, api.url) as tab:
        page = tab.open(f"jobs/{job_id}")
        chart = page.locator("[data-chart=Loss]")
        expect(chart.locator("canvas")).to_be_visible()
        assert 1000 <= int(chart.get_attribute("data-points") or 0) <= 2001
        with page.expect_response(lambda answer: "first_step=" in answer.url) as detail:
            drag(page)
        points = detail.value.json()["series"]["train"]
        assert points[-1]["step"] - points[0]["step"] < NUM_POINTS / 4
        assert 1000 <= len(points) <= 2001  # as many, of a shorter stretch
        back = page.get_by_role("button", name="show all")
        back.click()
        expect(back).to_have_count(0)


def drag(page: Page) -> None:
    """Over a fifth of the loss chart."""
    box = page.locator("[data-chart=Loss] .u-over").bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.4, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, y, steps=5)
    page.mouse.up()


def test_an_upload_becomes_a_dataset_job(browser: Browser, api: ApiServer, tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("one two\n" * 1000, "utf-8")
    with open_tab(browser, api.url) as tab:
        page = tab.open("data")
        page.locator("input[type=file]").set_input_files(file)
        expect(page.get_by_text("is there. What is it?")).to_be_visible()
        page.get_by_role("button", name="Make a dataset", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("words")
        expect(page.get_by_text("Waits for a free worker.")).to_be_visible()


def test_a_file_that_is_too_large_is_refused_in_words(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "large.txt"
    file.write_bytes(b"x" * 5000)
    with (
        running_api(tmp_path, RYANGPT_MAX_UPLOAD_BYTES="4000", RYANGPT_API_TOKEN="") as server,
        open_tab(browser, server.url) as tab,
    ):
        page = tab.open("data")
        page.locator("input[type=file]").set_input_files(file)
        expect(page.get_by_role("alert")).to_contain_text("4000 bytes at most")


def test_smoothing_tells_no_lies(browser: Browser, api: ApiServer) -> None:
    """A constant stays a constant, no weight changes nothing, gaps stay gaps, ends do not jump."""
    with open_tab(browser, api.url) as tab:
        page = tab.open("jobs")
        wait_until(lambda: page.locator("h1").count() == 1, "the page is there")
        module = page.locator("link[href$='lib/curves.js']").get_attribute("href")
        smooth = "async ([path, values, weight]) => (await import(path)).smooth(values, weight)"

        def smoothed(values: list[float | None], weight: float) -> list[float | None]:
            found: list[float | None] = page.evaluate(smooth, [module, values, weight])
            return found

        assert smoothed([7.0] * 50, 0.98) == pytest.approx([7.0] * 50)
        raw: list[float | None] = [3.0, 1.0, None, 4.0, 1.5]
        assert smoothed(raw, 0.0) == raw
        assert smoothed([1.0, 3.0], 0.5) == pytest.approx([1.0, (0.25 * 1 + 0.5 * 3) / 0.75])
        gapped = smoothed([1.0, None, 3.0], 0.5)
        assert gapped[1] is None
        assert gapped[2] == pytest.approx(7 / 3)
