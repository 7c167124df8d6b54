"""Going on through an outage: repeat what was unavailable, ever more slowly, until told to stop."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from shared.base.errors import JobFailedError, PlatformError, UnavailableError
from shared.base.settings import Settings
from shared.contracts.names import FailureCode
from shared.jobs.timing import FULL_STORE_SECONDS, RETRY_FIRST_SECONDS, RETRY_LAST_SECONDS

Result = TypeVar("Result")


class AbandonedError(PlatformError):
    """Nobody waits for this work any more."""

    code = "abandoned"


def outlast_outage(
    action: Callable[[], Result],
    *,
    settings: Settings,
    abandoned: threading.Event,
    on_wait: Callable[[UnavailableError], None],
) -> Result:
    """Call `action` until it raises no UnavailableError, at least once.

    Pauses double from 1 s to 30 s (scaled) and are jittered, so that many workers do not return at
    the same moment. `on_wait` hears of the first failure. Raises AbandonedError when `abandoned` is
    set meanwhile, and JobFailedError when the store has been full all the time for too long.
    """
    pause = settings.seconds(RETRY_FIRST_SECONDS)
    has_told = False
    full_since: float | None = None
    while True:
        try:
            return action()
        except UnavailableError as error:
            if abandoned.is_set():
                raise AbandonedError(f"Nobody waits any more. {error.message}") from error
            if not has_told:
                on_wait(error)
            has_told = True
            if error.code != FailureCode.STORAGE_FULL:
                full_since = None
            elif full_since is None:
                full_since = time.monotonic()
            elif time.monotonic() - full_since > settings.seconds(FULL_STORE_SECONDS):
                raise _storage_full(error) from error
        abandoned.wait(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, settings.seconds(RETRY_LAST_SECONDS))


def _storage_full(error: UnavailableError) -> JobFailedError:
    return JobFailedError(
        f"The object store stayed full. {error.message}",
        code=FailureCode.STORAGE_FULL,
        hint="Free some space in the object store, then retry the job: it goes on from its last "
        "committed checkpoint.",
    )
