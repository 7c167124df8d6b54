"""`python -m tests.faults.shifted_clock FILE MODULE`: run MODULE with a clock that is wrong.

FILE holds by how many seconds, and may change at any time. Only the platform's own clock is
shifted; monotonic time, by which it measures its pauses, is never wrong on a real machine either.
"""

from __future__ import annotations

import runpy
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from shared.base import clock

if __name__ == "__main__":
    file, module = Path(sys.argv[1]), sys.argv[2]

    def shifted_now() -> datetime:
        """The present moment as this machine believes."""
        return datetime.now(UTC) + timedelta(seconds=float(file.read_text()))

    clock.utc_now = shifted_now  # before any module takes the name from there
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
