"""Log lines: readable text in a terminal, one JSON object a line in a container."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

from shared.base.clock import rfc3339

bound_context: ContextVar[dict[str, str] | None] = ContextVar("bound_context", default=None)
"""Fields such as job_id or request_id that every line of the present task carries."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, bound fields, traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": rfc3339(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(bound_context.get() or {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """`12:03:44 INFO  message [job_id=...]`, for a person."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        bound = bound_context.get()
        return f"{line} [{' '.join(f'{k}={v}' for k, v in bound.items())}]" if bound else line


def configure_logging(*, log_format: str, level: str = "INFO") -> None:
    """Send all logs to stderr in one format, replacing whatever a library has set up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "alembic", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It warns of each of its repetitions; whoever uses it says once what must wait.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
