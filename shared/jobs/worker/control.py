"""What is wanted of one running job, from whichever thread learns it, carried to its process.

The slot's thread starts and waits for the process; the heartbeat's thread and the worker's main
thread only ask. A wish from before the start is kept and obeyed at the start.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import threading

from shared.base.process import signal_group
from shared.base.settings import Settings
from shared.jobs.program import SIGNAL_OF_STOP, Stop
from shared.jobs.timing import CANCEL_GRACE_SECONDS, DRAIN_GRACE_SECONDS, PAUSE_GRACE_SECONDS

logger = logging.getLogger(__name__)

_GRACE_SECONDS = {
    Stop.DRAIN: DRAIN_GRACE_SECONDS,
    Stop.PAUSE: PAUSE_GRACE_SECONDS,
    Stop.CANCEL: CANCEL_GRACE_SECONDS,
}


class Control:
    """Wishes for one attempt. Every method may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self.abandoned = threading.Event()
        """Set when nobody waits any more for what this attempt still has to store."""
        self.given_up = threading.Event()
        """Set when the attempt is to end now, whatever is still unwritten."""
        self._settings = settings
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requested: Stop | None = None
        self._lost = False
        self._closed = False
        self._timers: list[threading.Timer] = []

    @property
    def requested(self) -> Stop | None:
        """The strongest wish so far; cancel overrides pause, pause overrides drain."""
        return self._requested

    @property
    def lost(self) -> bool:
        """Whether another worker owns the job now: nothing more may be written."""
        return self._lost

    def attach(self, process: subprocess.Popen[bytes]) -> None:
        """Pass on wishes to this process, those that came before its start included."""
        with self._lock:
            self._process = process
            if self.given_up.is_set():
                self.kill()
            elif self._requested is not None:
                self._signal(self._requested)

    def detach(self) -> None:
        """The process has ended and been waited for; its number may soon be another's."""
        with self._lock:
            self._process = None

    def ask(self, stop: Stop) -> None:
        """Let the process end as `stop` says; after its grace it is killed."""
        with self._lock:
            order = list(Stop)
            weaker = self._requested and order.index(stop) <= order.index(self._requested)
            if weaker or self._closed:
                return
            self._requested = stop
            self._signal(stop)
            if stop is Stop.CANCEL:
                self.abandoned.set()
            timer = threading.Timer(
                self._settings.seconds(_GRACE_SECONDS[stop]), self._end_grace, [stop]
            )
            timer.daemon = True
            timer.start()
            self._timers.append(timer)

    def lose(self) -> None:
        """The lease is gone: kill the process and write nothing more."""
        with self._lock:
            self._lost = True
            self.kill()

    def kill(self) -> None:
        """Kill the whole process group and give up everything that would have to wait."""
        with self._lock:
            self.abandoned.set()
            self.given_up.set()
            if self._process is not None:
                signal_group(self._process, signal.SIGKILL)

    def kill_hung(self) -> None:
        """Kill the process group; before, let each Python in it write where it hangs."""
        with self._lock:
            if self._process is None:
                return
            signal_group(self._process, signal.SIGABRT)
            try:
                self._process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                logger.warning("The process does not even abort; it is killed.")
            signal_group(self._process, signal.SIGKILL)

    def close(self) -> None:
        """The attempt has ended; pending deadlines mean nothing any more."""
        with self._lock:
            self._closed = True
            for timer in self._timers:
                timer.cancel()

    def _signal(self, stop: Stop) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(SIGNAL_OF_STOP[stop])

    def _end_grace(self, stop: Stop) -> None:
        with self._lock:
            if not self._closed:
                logger.warning("The process did not %s in time and is killed.", stop)
                self.kill()
