"""Sees one claimed job through: inputs, process, checkpoints, outputs, and the row that ends it.

Torch-free. The work itself happens in the process; everything that others may rely on is written
here, under the job's fence.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path

from sqlalchemy.orm import Session

from shared.base.errors import JobFailedError, LeaseLostError, PlatformError, UnavailableError
from shared.base.version import code_version
from shared.contracts.jobs import SPEC_OF_KIND
from shared.contracts.manifest import REPORT_MD
from shared.contracts.names import FailureCode
from shared.contracts.progress import CheckpointLine, FailedLine, NoticeLine, OutputLine, PhaseLine
from shared.contracts.run_file import RunFile
from shared.contracts.specs import Spec
from shared.contracts.training_specs import TrainingOptions
from shared.db.tables import JobRow
from shared.jobs.life import lifecycle
from shared.jobs.timing import RELAY_SECONDS
from shared.jobs.worker.control import Control
from shared.jobs.worker.fetching import DamagedCheckpointError, InputFetcher
from shared.jobs.worker.heartbeat import Heartbeat
from shared.jobs.worker.job_process import ProcessEnd, run_process
from shared.jobs.worker.relay import Announced, Relay
from shared.jobs.worker.retries import AbandonedError, outlast_outage
from shared.jobs.worker.run_folder import RunFolder
from shared.jobs.worker.spool import Spool
from shared.jobs.worker.uploads import Uploader
from shared.jobs.worker.verdict import VERDICT_OF_STOP, Verdict, describe_crash, judge
from shared.jobs.worker.watchdog import Watchdog
from shared.jobs.worker.workshop import Place, Workshop
from shared.storage.keys import report_key

logger = logging.getLogger(__name__)

Ending = Callable[[Session], JobRow]
"""The last write of an attempt."""
TICKS_IN_RELAY_INTERVAL = 5
LEFT_BEHIND_TICKS = 50
"""An upload that nobody needs any more is waited for no longer than this."""


class Supervisor:
    """One attempt of one job. Call `run` from the slot's thread, which must outlive the process."""

    def __init__(self, workshop: Workshop, job: JobRow, place: Place) -> None:
        settings = workshop.settings
        self._workshop = workshop
        self._job = job
        self._place = place
        self._tick = settings.seconds(RELAY_SECONDS) / TICKS_IN_RELAY_INTERVAL
        self._folder = RunFolder.of(settings.data_dir, job.id, job.token)
        self._watchdog = Watchdog(settings)
        self._failed_line: FailedLine | None = None
        self._output_lines: list[OutputLine] = []
        self.control = Control(settings)
        """How other threads stop this attempt."""
        self._relay = Relay(
            database=workshop.database,
            job_id=job.id,
            token=job.token,
            folder=self._folder,
            announced=self._announced(),
            settings=settings,
        )
        self._uploader = Uploader(
            database=workshop.database,
            store=workshop.store,
            settings=settings,
            job_id=job.id,
            token=job.token,
            run_folder=self._folder.path,
            abandoned=self.control.abandoned,
            tell=self._relay.tell,
            is_written_up_to=self._relay.is_written_up_to,
        )
        self._spool = Spool(
            upload=self._uploader.upload_checkpoint, replaced=self._uploader.discard_checkpoint
        )

    @cached_property
    def _spec(self) -> Spec:
        return SPEC_OF_KIND[self._job.kind].model_validate(self._job.spec)

    @property
    def job_id(self) -> str:
        """The job it sees through."""
        return self._job.id

    def run(self) -> None:
        """Return when the attempt has ended and its last row is written, or is another's to write.

        Whatever goes wrong here is a stall of the job; nothing is raised for it.
        """
        heartbeat = Heartbeat(
            database=self._workshop.database,
            job_id=self._job.id,
            token=self._job.token,
            control=self.control,
            settings=self._workshop.settings,
        )
        try:
            with heartbeat:
                ending = self._attempt()
                heartbeat.stop()
                self._write(ending)
        except (LeaseLostError, AbandonedError) as error:
            logger.warning("Job %s is left to others: %s", self._job.id, error.message)
        finally:
            self.control.kill()
            self.control.close()
            self._spool.close()
            self._folder.remove()
            self._workshop.changed(self._job.id)

    def _attempt(self) -> Ending:
        """Do the work and say how the job goes on; raises LeaseLostError and AbandonedError."""
        try:
            return self._work()
        except LeaseLostError:
            raise
        except AbandonedError:
            if self.control.lost or self.control.requested is None:
                raise
            return self._interrupted(VERDICT_OF_STOP[self.control.requested])
        except DamagedCheckpointError as error:
            return self._without_checkpoint(error)
        except JobFailedError as error:
            code = FailureCode(error.code)
            return self._bound(lifecycle.fail, code=code, message=error.message, hint=error.hint)
        except PlatformError as error:
            return self._bound(lifecycle.stall, message=error.message, hint=error.hint)
        except Exception as error:
            logger.exception("Job %s failed in its worker", self._job.id)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                return self._disk_full()
            return self._bound(lifecycle.stall, message=f"The worker failed: {error!r}.")

    def _work(self) -> Ending:
        self._folder.create()
        self._relay.tell(PhaseLine(phase="fetching"))
        self._relay.pump()
        with ExitStack() as held:
            self._prepare(held)
            if self.control.requested is not None:
                return self._interrupted(VERDICT_OF_STOP[self.control.requested])
            self._relay.tell(PhaseLine(phase="starting"))
            end = run_process(
                self._workshop.programs[self._job.kind],
                self._folder,
                self._place,
                control=self.control,
                relay=self._relay,
                watchdog=self._watchdog,
                check=self._check_spool,
                tick=self._tick,
            )
        has_explained = self._failed_line is not None
        verdict = judge(end, requested=self.control.requested, has_explained=has_explained)
        self._finish_checkpoints(verdict)
        ending = self._ending(verdict, end)
        self._write_last_lines()
        return ending

    def _prepare(self, held: ExitStack) -> None:
        """Bring the inputs, which stay while `held` is open, and write the run file."""
        job = self._job
        workshop = self._workshop
        fetcher = InputFetcher(
            database=workshop.database,
            store=workshop.store,
            cache=workshop.cache,
            settings=workshop.settings,
            held=held,
            abandoned=self.control.abandoned,
        )
        resume_id = lifecycle.resume_checkpoint_id(job)
        fetched = fetcher.fetch(job.kind, job.resolved_inputs, resume_id)
        run = RunFile(
            job_id=job.id,
            kind=job.kind,
            attempt=job.attempt,
            token=job.token,
            spec=self._spec,
            inputs=fetched.inputs,
            resume=fetched.resume,
            spool=self._folder.spool,
            outputs=self._folder.outputs,
            events=self._folder.events,
            reserved_gpu_bytes=workshop.settings.inference_gpu_bytes,
            num_threads=self._place.num_threads,
            slot_locks=self._workshop.settings.resolved_slot_lock_dir,
            code_version=code_version(),
        )
        self._folder.write(run)

    def _finish_checkpoints(self, verdict: Verdict) -> None:
        """Wait for the uploads under way, also after a crash: each is work that is not lost."""
        if not self._spool.is_empty or (self._output_lines and verdict is Verdict.SUCCEEDED):
            self._relay.tell(PhaseLine(phase="uploading"))
        self._spool.close()
        ticks_left = LEFT_BEHIND_TICKS
        while ticks_left and not self._spool.wait(self._tick):
            self._relay.pump()
            if self.control.abandoned.is_set():
                ticks_left -= 1
        failure = self._spool.failure
        if failure is None:
            return
        if isinstance(failure, LeaseLostError) or verdict is Verdict.SUCCEEDED:
            raise failure
        logger.warning("A checkpoint of job %s was not stored: %s", self._job.id, failure)

    def _ending(self, verdict: Verdict, end: ProcessEnd) -> Ending:
        if verdict is Verdict.SUCCEEDED:
            outputs = self._uploader.upload_outputs(self._output_lines)
            self._store_report()
            return self._bound(lifecycle.succeed, outputs=outputs)
        if verdict is Verdict.FAILED:
            line = self._failed_line
            if line is None:
                return self._disk_full()
            return self._bound(lifecycle.fail, code=line.code, message=line.message, hint=line.hint)
        if verdict is Verdict.STALLED:
            message = describe_crash(end, self._relay.last_log_lines)
            return self._bound(lifecycle.stall, message=message)
        return self._interrupted(verdict)

    def _interrupted(self, verdict: Verdict) -> Ending:
        if verdict is Verdict.CANCELLED:
            return self._bound(lifecycle.cancelled)
        return self._bound(lifecycle.park if verdict is Verdict.PAUSED else lifecycle.requeue)

    def _without_checkpoint(self, error: DamagedCheckpointError) -> Ending:
        """Fall back on an earlier checkpoint; one of another job has none before it here."""
        damaged = self._job.last_checkpoint_id
        if damaged is None:
            return self._bound(lifecycle.stall, message=error.message, hint=error.hint)
        message = f"The last checkpoint is damaged, an earlier one is used. {error.message}"
        logger.error("%s", message)
        return self._bound(lifecycle.forsake_checkpoint, checkpoint_id=damaged, message=message)

    def _disk_full(self) -> Ending:
        return self._bound(
            lifecycle.fail,
            code=FailureCode.STORAGE_FULL,
            message="The worker's disk is full.",
            hint="Free some space in its data folder, then retry the job.",
        )

    def _bound(self, write: Callable[..., JobRow], **details: object) -> Ending:
        return partial(write, job_id=self._job.id, token=self._job.token, **details)

    def _store_report(self) -> None:
        """Before the job has succeeded, so that who sees it succeed finds the report.

        A report that cannot be made is a notice to its reader and never the end of a job.
        """
        self._write_last_lines()
        try:
            text = self._report_text()
            if text is not None:
                self._workshop.store.put_bytes(report_key(self._job.id), text.encode())
        except Exception:
            logger.exception("The report of job %s could not be made", self._job.id)
            message = "The report could not be made; the worker's log says why."
            self._relay.tell(NoticeLine(level="warning", message=message))

    def _report_text(self) -> str | None:
        """Of training, from the rows; of other jobs, what the program has written, if it has."""
        if isinstance(self._spec, TrainingOptions):
            return self._workshop.render_report(self._workshop.database, self._job.id)
        written = [Path(line.path) / REPORT_MD for line in self._output_lines]
        return next((path.read_text("utf-8") for path in written if path.is_file()), None)

    def _write_last_lines(self) -> None:
        outlast_outage(
            self._relay.flush,
            settings=self._workshop.settings,
            abandoned=self.control.abandoned,
            on_wait=self._log_outage,
        )

    def _write(self, ending: Ending) -> None:
        def write() -> None:
            with self._workshop.database.transaction() as session:
                ending(session)

        try:
            outlast_outage(
                write,
                settings=self._workshop.settings,
                abandoned=self.control.given_up,
                on_wait=self._log_outage,
            )
        except JobFailedError as error:  # it succeeded without putting out what it should
            self._write(self._bound(lifecycle.stall, message=error.message, hint=error.hint))

    def _log_outage(self, error: UnavailableError) -> None:
        logger.warning("Job %s waits for the database: %s", self._job.id, error.message)

    def _check_spool(self) -> None:
        """A checkpoint that can never be stored ends the run: going on would lose more."""
        if self._spool.failure is not None and not self.control.abandoned.is_set():
            raise self._spool.failure

    def _announced(self) -> Announced:
        return Announced(
            checkpoint=self._take_checkpoint,
            output=self._output_lines.append,
            failed=self._note_failed,
            seen=self._watchdog.saw,
            written=lambda: self._workshop.changed(self._job.id),
        )

    def _take_checkpoint(self, line: CheckpointLine) -> None:
        if line.meta.final or self.control.requested is not None:
            self._watchdog.expect_end()
        self._spool.offer(line)

    def _note_failed(self, line: FailedLine) -> None:
        self._failed_line = line
