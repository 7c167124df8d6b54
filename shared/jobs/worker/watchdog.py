"""Tells a process that hangs from one that works in silence."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import median

from shared.base.settings import Settings
from shared.contracts.progress import PhaseLine, ProgressMessage
from shared.jobs.timing import COMPILE_SILENCE_SECONDS, LONG_SILENCE_SECONDS, SILENCE_SECONDS

PACED_PHASES = frozenset({"training", "evaluating"})
"""Phases in which lines come at a regular pace: with micro-batches, with evaluation windows."""
COMPILE_PHASE = "compile"
ENDING_PHASE = "ending"
"""The last checkpoint is written and the process has only to leave: on a busy machine slowly, and
without a word."""
GAPS_KEPT = 20
GAPS_NEEDED = 3
"""With fewer gaps seen there is no usual one."""
GAP_FACTOR = 5
LONGEST_STEP_SECONDS = 30.0


class Watchdog:
    """Measures the gaps between a process's lines; log output counts for nothing."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._phase = ""
        self._gaps: deque[float] = deque(maxlen=GAPS_KEPT)
        self._last_line = self._last_look = clock()
        self._longest_step = settings.seconds(LONGEST_STEP_SECONDS)
        self.silence = 0.0
        """Seconds without a line, as far as we were awake to listen."""

    def saw(self, line: ProgressMessage) -> None:
        """Note a line."""
        now = self._clock()
        if isinstance(line, PhaseLine):
            self._phase = line.phase
        elif self._phase in PACED_PHASES:
            self._gaps.append(now - self._last_line)
        self._last_line = self._last_look = now
        self.silence = 0.0

    def expect_end(self) -> None:
        """Nothing more need be told."""
        self._phase = ENDING_PHASE

    @property
    def budget(self) -> float:
        """Seconds of silence that are all right now."""
        if self._phase == COMPILE_PHASE:
            return self._settings.seconds(COMPILE_SILENCE_SECONDS)
        if self._phase not in PACED_PHASES or len(self._gaps) < GAPS_NEEDED:
            return self._settings.seconds(LONG_SILENCE_SECONDS)
        usual = GAP_FACTOR * median(self._gaps)
        return max(usual, self._settings.seconds(SILENCE_SECONDS))

    def is_hung(self) -> bool:
        """Whether the silence is too long; call it often.

        Between two calls only a little time counts: when we ourselves were stopped meanwhile (a
        frozen container, a debugger), the process may have been too.
        """
        now = self._clock()
        self.silence += min(now - self._last_look, self._longest_step)
        self._last_look = now
        return self.silence > self.budget
