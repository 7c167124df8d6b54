"""The one error tree: what went wrong, where, and what the reader can do about it.

Knows no HTTP framework. `status_code` is the HTTP meaning of an error, so that the API and the
inference service each render the same exception in their own shape.
"""

from __future__ import annotations


class PlatformError(Exception):
    """Base of every error this project raises on purpose.

    `code` is stable and machine-readable; `hint` tells a person what to do next; `pointer` is a
    JSON pointer into the offending document, such as `/spec/num_heads`.
    """

    status_code = 500
    code = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        pointer: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.hint = hint
        self.pointer = pointer


class InvalidInputError(PlatformError):
    """The caller sent something that can never work."""

    status_code = 422
    code = "invalid_input"


class UnauthorizedError(PlatformError):
    """No token, or a wrong one."""

    status_code = 401
    code = "unauthorized"


class ForbiddenError(PlatformError):
    """A request from an origin or host that is not allowed."""

    status_code = 403
    code = "forbidden"


class NotFoundError(PlatformError):
    """No such row or object."""

    status_code = 404
    code = "not_found"


class ConflictError(PlatformError):
    """The thing exists, but its state forbids the request."""

    status_code = 409
    code = "conflict"


class RequestTimeoutError(PlatformError):
    """A request that did not arrive whole in time."""

    status_code = 408
    code = "request_timeout"


class TooLargeError(PlatformError):
    """A body or a dataset beyond its limit."""

    status_code = 413
    code = "too_large"


class UnavailableError(PlatformError):
    """Something needed is not there right now; trying again later can help."""

    status_code = 503
    code = "unavailable"

    def __init__(self, message: str, *, retry_after: int = 5, **more: str | None) -> None:
        super().__init__(message, **more)
        self.retry_after = retry_after
        """Seconds after which a client may try again."""


class TooManyError(UnavailableError):
    """A limit is reached; when something has ended there is room again."""

    status_code = 429
    code = "too_many"


class IntegrityError(PlatformError):
    """Stored bytes are not what their manifest says."""

    status_code = 500
    code = "integrity"


class LeaseLostError(PlatformError):
    """A write carried a token that is no longer the job's: another worker owns the job now."""

    status_code = 409
    code = "lease_lost"


class JobFailedError(PlatformError):
    """Raised inside a job's process: the job cannot succeed. `code` is one of `FailureCode`."""

    status_code = 422
    code = "bad_data"


class StartupError(PlatformError):
    """The platform cannot start here; the message is one sentence for the terminal."""

    code = "startup"
