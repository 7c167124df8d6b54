"""Time as the project writes it: aware, UTC, RFC 3339."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the present moment with its zone."""
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """Return `moment` in UTC with milliseconds and a `Z`, as every document here shows time."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
