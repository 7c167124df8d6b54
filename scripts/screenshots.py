"""Photograph the pages for the documentation, in light and dark: `make screenshots`.

    python scripts/screenshots.py [--url http://localhost:8000]

Without an address it starts a platform of its own and trains the quickstart on it; with one it
takes the newest training runs there. Needs Chromium. The pictures go to docs/images/.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from playwright.sync_api import Browser, Page, expect

from ryangpt import Client
from shared.contracts.jobs import JobView
from shared.contracts.names import JobKind
from tests.support.browsers import running_chromium
from tests.support.platforms import running_platform
from tests.support.waiting import wait_until

FOLDER = Path(__file__).parents[1] / "docs" / "images"
MAX_BYTES = 200_000
WINDOW = {"width": 1240, "height": 800}
QUESTIONS = ("Hello", "What is your name?", "What does os.path.join do?")
HALF, HOURS = 0.5, 3600.0 * 3
"""The run is photographed in the middle; a busy machine may take long to get there."""


def main() -> None:
    """Take every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running platform that has a quickstart")
    url = parser.parse_args().url
    FOLDER.mkdir(parents=True, exist_ok=True)
    with platform_at(url) as address, running_chromium() as browser, Client(address) as client:
        wait_until(lambda: is_half_way(client), "a run is half way", seconds=HOURS, poll=1.0)
        run = newest_run(client, JobKind.TRAIN)
        for scheme in ("light", "dark"):
            photograph(browser, address, "jobs", scheme, name="jobs")
            photograph(browser, address, f"jobs/{run.id}", scheme, name="job")
            photograph(browser, address, "new?recipe=quickstart", scheme, name="submit")
        wait_until(lambda: is_served(client), "the chat model answers", seconds=HOURS, poll=1.0)
        for scheme in ("light", "dark"):
            photograph(browser, address, "chat", scheme, name="chat")


@contextmanager
def platform_at(url: str | None) -> Iterator[str]:
    """The given platform, or one of its own that is gone afterwards."""
    if url is not None:
        yield url
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        running_platform(Path(folder) / "data") as platform,
    ):
        platform.ryangpt("run", "quickstart", "--log_interval", "2", "--detach")
        yield platform.url


def newest_run(client: Client, kind: JobKind) -> JobView:
    """The newest job of the kind."""
    return next(job for job in client.jobs() if job.kind == kind)


def is_half_way(client: Client) -> bool:
    """Whether the newest pretraining has a curve to show."""
    progress = newest_run(client, JobKind.TRAIN).progress
    return progress.total_steps > 0 and progress.step > HALF * progress.total_steps


def is_served(client: Client) -> bool:
    """Whether the last version of the newest chat model answers."""
    run = newest_run(client, JobKind.FINETUNE)
    served = {model["id"] for model in client.served_models()}
    return run.state == "succeeded" and run.spec["model"] in served


def photograph(browser: Browser, url: str, address: str, scheme: str, *, name: str) -> None:
    """Open a page, let it come to rest, and store a picture of the window."""
    context = browser.new_context(color_scheme=scheme, viewport=WINDOW, device_scale_factor=1)
    page = context.new_page()
    page.goto(f"{url}/#/{address}")
    expect(page.get_by_role("status", name="Loading")).to_have_count(0, timeout=60_000)
    READY.get(name, lambda _: None)(page)
    page.wait_for_timeout(1000)  # fonts, and curves on their canvas
    path = FOLDER / f"{name}-{scheme}.png"
    page.screenshot(path=path, animations="disabled")
    context.close()
    if path.stat().st_size > MAX_BYTES:
        sys.exit(f"{path} has {path.stat().st_size} bytes.")
    sys.stdout.write(f"{path}\n")


def talk(page: Page) -> None:
    """Ask what a newcomer asks; a low temperature, for a picture is looked at for long."""
    page.get_by_label("Temperature").fill("0.1")
    for number, question in enumerate(QUESTIONS, start=1):
        page.get_by_label("Message").fill(question)
        page.keyboard.press("Enter")
        answered = page.locator("[data-turn=model]:not([data-finish=''])")
        expect(answered).to_have_count(number, timeout=120_000)


READY = {
    "jobs": lambda page: expect(page.locator(".spark").first).to_be_visible(timeout=60_000),
    "job": lambda page: expect(page.locator("canvas").first).to_be_visible(timeout=60_000),
    "submit": lambda page: expect(page.get_by_text("Ready to start")).to_be_visible(timeout=60_000),
    "chat": talk,
}  # fmt: skip
"""What a page must show before its picture is taken."""

if __name__ == "__main__":
    main()
