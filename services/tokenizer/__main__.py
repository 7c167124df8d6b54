"""`python -m services.tokenizer`: the worker for ingest and tokenize jobs, until SIGTERM or Ctrl-C.

Each job runs in a process of its own, `services.tokenizer.run`; this one stays small.
"""

from __future__ import annotations

import sys

from shared.base.errors import PlatformError
from shared.base.logs import configure_logging
from shared.base.settings import get_settings
from shared.contracts.names import Queue
from shared.jobs.worker.process import Worker


def main() -> int:
    """Work until told to stop; return the exit code."""
    settings = get_settings()
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    lanes = {Queue.TOKENIZER: settings.tokenizer_slots}
    return Worker(settings, name="tokenizer", lanes=lanes).run()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PlatformError as error:
        sys.exit(f"tokenizer: {error.message}")
