"""Chromium for the tests of the pages, and a page that tells whatever went wrong on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Dialog, Page, Request, expect, sync_playwright

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
]  # fmt: skip
PATIENCE_SECONDS = 240.0
"""The machine may be busy with other things."""
SERIOUS = {"serious", "critical"}


@dataclass(kw_only=True)
class Tab:
    """A page in a browser of its own, and all that must not happen there."""

    page: Page
    url: str
    dialogs: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Exceptions, and what the page's policy had to refuse."""
    foreign: list[str] = field(default_factory=list)
    """Requests to other hosts."""

    def open(self, address: str = "") -> Page:
        """Go to a page of the platform, such as `jobs`, anew."""
        self.page.goto(f"{self.url}/#/{address}")
        self.page.reload()
        return self.page

    def check(self) -> None:
        """Raise unless everything went well."""
        assert (self.dialogs, self.errors, self.foreign) == ([], [], [])


def find_chromium() -> str:
    """The path of Chromium; skips, saying so, where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("THE PAGES ARE NOT TESTED: no Chromium here (Debian: apt-get install chromium)")
    return path


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """A headless Chromium."""
    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def open_tab(browser: Browser, url: str, **options: Any) -> Iterator[Tab]:
    """A tab with nothing remembered; at its end nothing may have gone wrong."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    context.add_init_script(
        "addEventListener('securitypolicyviolation',"
        " event => console.error('policy: ' + event.violatedDirective + event.blockedURI))"
    )
    expect.set_options(timeout=PATIENCE_SECONDS * 1000)
    tab = Tab(page=context.new_page(), url=url)
    _listen(tab)
    yield tab
    tab.check()
    context.close()


def _listen(tab: Tab) -> None:
    def on_dialog(dialog: Dialog) -> None:
        tab.dialogs.append(dialog.message)
        dialog.dismiss()

    def on_console(message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            tab.errors.append(message.text)

    def on_request(request: Request) -> None:
        if urlsplit(request.url).netloc != urlsplit(tab.url).netloc:
            tab.foreign.append(request.url)

    tab.page.on("dialog", on_dialog)
    tab.page.on("console", on_console)
    tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.page.on("request", on_request)


def serious_findings(page: Page) -> list[str]:
    """What axe finds wrong that keeps people out."""
    violations = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in violations
        if one["impact"] in SERIOUS
        for node in one["nodes"]
    ]


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than its window."""
    width: int = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return width
