"""One Chromium and one platform for all tests of the pages, and a model that they made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser.quickstart import Trained, train_through_the_form
from tests.support.api_server import ApiServer, running_api
from tests.support.browsers import Tab, find_chromium, open_tab, running_chromium
from tests.support.platforms import RunningPlatform, running_platform


# Scope "package": while Playwright runs, no other test of the session could run an event loop.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="package")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """The whole platform, as `ryangpt up` starts it."""
    find_chromium()
    with running_platform(tmp_path_factory.mktemp("pages") / "data") as running:
        yield running


@pytest.fixture(scope="package")
def trained(browser: Browser, platform: RunningPlatform) -> Trained:
    """What a quickstart submitted through the form has made."""
    with open_tab(browser, platform.url) as tab:
        return train_through_the_form(tab, platform)


@pytest.fixture
def tab(browser: Browser, platform: RunningPlatform) -> Iterator[Tab]:
    """A fresh tab on the platform."""
    with open_tab(browser, platform.url) as tab:
        yield tab


@pytest.fixture
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API alone, without a token, whose database a test may fill itself."""
    find_chromium()
    with running_api(tmp_path_factory.mktemp("api"), RYANGPT_API_TOKEN="") as server:
        yield server
