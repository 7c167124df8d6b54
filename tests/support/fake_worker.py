"""`python -m tests.support.fake_worker`: a real worker whose jobs act out scripts."""

from __future__ import annotations

import sys

from shared.base.logs import configure_logging
from shared.base.settings import get_settings
from shared.contracts.names import Queue
from shared.jobs.worker.process import Worker
from tests.support.job_bench import PROGRAMS


def main() -> int:
    """Serve all queues, one slot each."""
    settings = get_settings()
    configure_logging(log_format="text")
    lanes = dict.fromkeys(Queue, 1)
    return Worker(settings, name="fake", lanes=lanes, programs=PROGRAMS).run()


if __name__ == "__main__":
    sys.exit(main())
