"""`python -m services.trainer`: the worker for train, finetune, export and import jobs.

It ends by SIGTERM or Ctrl-C, when every job has stored a checkpoint and gone back to the queue.

Each job runs in a process of its own, `services.trainer.run`; this one stays small.
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
    lanes = {
        Queue.TRAINER_GPU: settings.gpu_slots,
        Queue.TRAINER_LIGHT: settings.light_slots,
    }
    return Worker(settings, name="trainer", lanes=lanes).run()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PlatformError as error:
        sys.exit(f"trainer: {error.message}")
