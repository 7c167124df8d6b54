"""Carries what a job's process writes into SQL, in small fenced batches.

Lines that announce folders, or the failure of the job, go to whoever handles them; the rest goes to
the recorder. While the database is away lines wait in the files; nothing is lost or doubled.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from shared.base.errors import UnavailableError
from shared.base.settings import Settings
from shared.contracts.progress import (
    PROGRESS_LINE,
    CheckpointLine,
    FailedLine,
    LogLine,
    NoticeLine,
    OutputLine,
    ProgressMessage,
)
from shared.db.session import Database
from shared.jobs.life.recorder import record
from shared.jobs.timing import RELAY_SECONDS
from shared.jobs.worker.run_folder import RunFolder
from shared.jobs.worker.tail import Tail

logger = logging.getLogger(__name__)

BATCH_LINES = 20
"""Lines a transaction, so that other writers get their turn."""
MAX_PENDING_LINES = 1000
"""While so many wait for the database, output is not read further. Events are: they announce
checkpoints, and they are signs of life."""
MAX_LOG_LINES = 100_000
"""Of one attempt; a process that writes more is cut off, not the database filled."""
LAST_LOG_LINES = 15
SHOWN_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """Who handles the lines that are more than a record."""

    checkpoint: Callable[[CheckpointLine], None]
    output: Callable[[OutputLine], None]
    failed: Callable[[FailedLine], None]
    seen: Callable[[ProgressMessage], None]
    """Called with every line; a sign of life."""
    written: Callable[[], None]
    """Called after each batch that has been written."""


class Relay:
    """One attempt's lines on their way; used by the slot's thread only, but for `tell`."""

    def __init__(
        self,
        *,
        database: Database,
        job_id: str,
        token: int,
        folder: RunFolder,
        announced: Announced,
        settings: Settings,
    ) -> None:
        self._database = database
        self._job_id = job_id
        self._token = token
        self._events = Tail(folder.events)
        self._log = Tail(folder.log)
        self._announced = announced
        self._interval = settings.seconds(RELAY_SECONDS)
        self._pending: deque[ProgressMessage | LogLine] = deque()
        self._num_written = 0
        self._lines_before: dict[str, int] = {}
        """By a checkpoint's path, how many lines came before it."""
        self._last_flush = time.monotonic()
        self._log_lines = 0
        self._is_database_away = False
        self.last_log_lines: deque[str] = deque(maxlen=LAST_LOG_LINES)
        """The newest lines of output, for the message of a crash."""

    def tell(self, line: ProgressMessage) -> None:
        """Add a line of the supervisor's own; any thread may."""
        self._pending.append(line)

    def is_written_up_to(self, checkpoint: CheckpointLine) -> bool:
        """Whether all that the process told before it announced this is written; any thread may.

        Who resumes from a checkpoint does not repeat the steps before it, nor their metrics.
        """
        return self._num_written >= self._lines_before[checkpoint.path]

    def pump(self) -> None:
        """Take what is new, and write it when the interval is over or a batch is full.

        Raises LeaseLostError when the job is another worker's. An unreachable database is no
        error: everything stays pending.
        """
        self._take_new_events()
        if len(self._pending) < MAX_PENDING_LINES:
            self._take_new_output()
        is_due = time.monotonic() - self._last_flush >= self._interval
        if self._pending and (is_due or len(self._pending) >= BATCH_LINES):
            try:
                self.flush()
            except UnavailableError as error:
                self._note_outage(error)

    def take_the_rest(self) -> None:
        """Take everything that an ended process has left; `flush` until it is written."""
        while not (self._events.at_end and self._log.at_end):
            self._take_new_events()
            self._take_new_output()
        for raw in self._events.read_rest():
            self._take_event(raw)
        for raw in self._log.read_rest():
            self._take_log(raw)

    def flush(self) -> None:
        """Write all that is pending, a batch a transaction.

        Raises UnavailableError (what is not written stays pending) and LeaseLostError.
        """
        while self._pending:
            # By index: another thread may append meanwhile, which an iterator does not bear.
            batch = [self._pending[i] for i in range(min(len(self._pending), BATCH_LINES))]
            with self._database.transaction() as session:
                record(session, self._job_id, self._token, batch)
            for _ in batch:
                self._pending.popleft()
            self._num_written += len(batch)
            self._announced.written()
            self._is_database_away = False
        self._last_flush = time.monotonic()

    def _take_new_events(self) -> None:
        for raw in self._events.read_lines():
            self._take_event(raw)

    def _take_new_output(self) -> None:
        for raw in self._log.read_lines():
            self._take_log(raw)

    def _take_event(self, raw: bytes) -> None:
        try:
            line = PROGRESS_LINE.validate_json(raw)
        except ValidationError as error:
            shown = raw[:SHOWN_CHARS].decode("utf-8", "replace")
            reason = error.errors()[0]["msg"]
            message = f"The process wrote a line that nobody understands ({reason}): {shown}"
            self.tell(NoticeLine(level="warning", message=message))
            return
        self._announced.seen(line)
        match line:
            case CheckpointLine():
                self._lines_before[line.path] = self._num_written + len(self._pending)
                self._announced.checkpoint(line)
            case OutputLine():
                self._announced.output(line)
            case FailedLine():
                self._announced.failed(line)
            case _:
                self.tell(line)

    def _take_log(self, raw: bytes) -> None:
        line = raw.decode("utf-8", "replace").rstrip("\r")
        self.last_log_lines.append(line)
        self._log_lines += 1
        if self._log_lines <= MAX_LOG_LINES:
            self._pending.append(LogLine(line=line))
        elif self._log_lines == MAX_LOG_LINES + 1:
            message = f"Only the first {MAX_LOG_LINES} lines of output are kept."
            self.tell(NoticeLine(level="warning", message=message))

    def _note_outage(self, error: UnavailableError) -> None:
        self._last_flush = time.monotonic()  # the next attempt comes an interval later
        if not self._is_database_away:
            logger.warning("Lines wait for the database: %s", error.message)
        self._is_database_away = True
