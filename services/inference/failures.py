"""What the engine could not do, as the errors that clients get."""

from __future__ import annotations

from services.inference.sequence import Delta, FailureCode
from shared.base.errors import PlatformError, UnavailableError

RETRY_AFTER_SECONDS = 5


class BegunError(PlatformError):
    """Work was done already when an answer failed; clients should not repeat it by themselves."""


class GenerationFailedError(BegunError):
    """The engine could not finish an answer."""

    code = "generation_failed"


class DeadlineError(BegunError):
    """An answer took longer than answers may."""

    status_code = 504
    code = "timeout"


class QueueTimeoutError(UnavailableError):
    """A request got no slot in time; nothing was computed for it."""

    status_code = 429
    code = "queue_timeout"


def failure_of(delta: Delta) -> PlatformError:
    """The error for a delta that carries one."""
    message = delta.error or "Computing the answer failed."
    match delta.error_code:
        case FailureCode.TIMEOUT:
            return DeadlineError(message)
        case FailureCode.QUEUE_TIMEOUT:
            return QueueTimeoutError(message, retry_after=RETRY_AFTER_SECONDS)
        case FailureCode.SHUTDOWN | FailureCode.RETIRED as code:
            return UnavailableError(message, code=code.value, retry_after=RETRY_AFTER_SECONDS)
        case _:
            return GenerationFailedError(message)
