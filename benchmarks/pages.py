"""How soon the pages can be used: bytes of the first load, and time until each shows its content.

    python -m benchmarks.pages

Starts an API with 200 jobs and a run of 100,000 points, opens each page in Chromium with an empty
cache, and prints the median beside that of a page that is one line of text from the same server.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page

from shared.db.session import Database
from tests.support import rows
from tests.support.api_server import running_api
from tests.support.browsers import running_chromium
from tests.support.long_runs import long_run

REPEATS = 7
NUM_JOBS = 200
PAGES = {
    "jobs": ("jobs", "tr[data-job]"),
    "job, 100,000 points": ("jobs/{job}", "[data-chart=Loss] canvas"),
    "new job": ("new?recipe=quickstart", "[data-job-key]"),
    "data": ("data", "section[aria-label=Datasets] tbody tr"),
    "workers": ("workers", "text=Queue"),
}
PEER = "/health/live"


def main() -> None:
    """Measure and print."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_chromium() as browser,
        running_api(Path(folder), RYANGPT_API_TOKEN="") as server,
    ):
        job_id = fill(Database(server.database_url))
        print(f"{'page':22} {'usable':>9} {'of a line':>10} {'bytes':>9}")
        for name, (address, selector) in PAGES.items():
            url = f"{server.url}/#/{address.format(job=job_id)}"
            runs = [measure(browser, url, selector) for _ in range(REPEATS)]
            peers = [measure(browser, f"{server.url}{PEER}", "text=ok") for _ in range(REPEATS)]
            own, peer = (statistics.median(seconds for seconds, _ in one) for one in (runs, peers))
            print(f"{name:22} {own * 1000:6.0f} ms {own / peer:9.1f}x {runs[0][1]:9,}")


def fill(database: Database) -> str:
    """Many jobs and one long run; returns the id of that."""
    job_id = long_run(database)
    for _ in range(NUM_JOBS // 20):
        with database.transaction() as session:
            for _ in range(20):
                rows.submit(session, rows.INGEST)
    return job_id


def measure(browser: Browser, url: str, selector: str) -> tuple[float, int]:
    """Seconds until the content is there, and bytes of the page's own files on the wire."""
    context = browser.new_context()
    page = context.new_page()
    sizes = sizes_of_responses(page)
    page.goto(url, wait_until="commit")
    page.wait_for_selector(selector)
    milliseconds = page.evaluate("performance.now()")
    page.wait_for_load_state("load")
    context.close()
    return milliseconds / 1000, sum(sizes)


def sizes_of_responses(page: Page) -> list[int]:
    """Filled in, as the page loads, with the length of what it gets of the pages' files."""
    sizes: list[int] = []
    page.on(
        "response",
        lambda answer: (
            sizes.append(int(answer.headers.get("content-length", 0)))
            if "/pages/" in answer.url or answer.url.endswith("/")
            else None
        ),
    )
    return sizes


if __name__ == "__main__":
    main()
