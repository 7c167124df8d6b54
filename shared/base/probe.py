"""Is a service well? `python -m shared.base.probe http://127.0.0.1:8000/health/ready`, or a file
that its process touches: exit code 0 or 1, for containers whose images carry no curl.
"""

from __future__ import annotations

import http.client
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 4.0
OLDEST_SECONDS = 60.0
"""A worker touches its file every five seconds, and while it drains."""


def problem(target: str) -> str:
    """What is wrong with an `http://` address or a file of life; empty when it is well."""
    return _problem_of_address(target) if target.startswith("http://") else _problem_of_file(target)


def _problem_of_address(url: str) -> str:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", parts.path or "/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{url} does not answer: {error}"
    finally:
        connection.close()
    return "" if status == http.client.OK else f"{url} answers {status}"


def _problem_of_file(name: str) -> str:
    try:
        age = time.time() - Path(name).stat().st_mtime
    except OSError as error:
        return f"{name}: {error.strerror}"
    return "" if age <= OLDEST_SECONDS else f"{name} was last touched {age:.0f} s ago"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m shared.base.probe http://HOST:PORT/PATH | FILE")
    sys.exit(problem(sys.argv[1]) or 0)
