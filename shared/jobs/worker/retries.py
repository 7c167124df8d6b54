"""Going on through an outage: repeat what was unavailable, ever more slowly, until told to stop."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TypeVar

from shared.base.errors import PlatformError, UnavailableError
from shared.base.settings import Settings
from shared.jobs.timing import RETRY_FIRST_SECONDS, RETRY_LAST_SECONDS

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
    set meanwhile.
    """
    pause = settings.seconds(RETRY_FIRST_SECONDS)
    has_told = False
    while True:
        try:
            return action()
        except UnavailableError as error:
            if abandoned.is_set():
                raise AbandonedError(f"Nobody waits any more. {error.message}") from error
            if not has_told:
                on_wait(error)
            has_told = True
        abandoned.wait(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, settings.seconds(RETRY_LAST_SECONDS))
