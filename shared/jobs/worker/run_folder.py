"""Where one attempt of a job lives on the worker's disk: `runs/<job>/t<token>/`."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from shared.base.files import write_bytes
from shared.contracts.names import JobState
from shared.contracts.run_file import RUN_FILE_NAME, RunFile
from shared.db.repositories.jobs import find_job
from shared.db.session import Database

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """The paths of one attempt. Everything in it is worthless once the attempt has ended."""

    job_folder: Path
    token: int

    @classmethod
    def of(cls, data_dir: Path, job_id: str, token: int) -> RunFolder:
        """The folder of this attempt; nothing is made yet."""
        return cls(job_folder=data_dir.resolve() / "runs" / job_id, token=token)

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.job_folder / f"t{self.token}"

    @property
    def run_file(self) -> Path:
        """What the process is told."""
        return self.path / RUN_FILE_NAME

    @property
    def events(self) -> Path:
        """JSON lines from the process."""
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        """Standard output and standard error of the process."""
        return self.path / "output.log"

    @property
    def spool(self) -> Path:
        """Finished checkpoints on their way to the store."""
        return self.path / "spool"

    @property
    def outputs(self) -> Path:
        """Finished outputs on their way to the store."""
        return self.path / "outputs"

    def create(self) -> None:
        """Make the folder, and remove what other attempts of the same job have left here."""
        for other in self.job_folder.glob("t*"):
            shutil.rmtree(other)
        self.spool.mkdir(parents=True)
        self.outputs.mkdir()
        self.events.touch()
        self.log.touch()

    def write(self, run: RunFile) -> None:
        """Write the run file."""
        write_bytes(self.run_file, run.model_dump_json(indent=2).encode())

    def remove(self) -> None:
        """Remove this attempt; and the job's folder, if another one has not come meanwhile."""
        shutil.rmtree(self.path, ignore_errors=True)
        try:
            self.job_folder.rmdir()
        except OSError:
            return  # a newer attempt lives there, or it is gone already


def remove_dead_runs(database: Database, data_dir: Path) -> list[Path]:
    """Remove what killed workers have left of attempts whose fence has moved on; return it.

    The next attempt of a job clears up after the others, but only where it runs itself. Raises
    UnavailableError when the database is away.
    """
    removed = []
    for path in sorted((data_dir.resolve() / "runs").glob("job_*/t*")):
        with database.reading() as session:
            job = find_job(session, path.parent.name)
        if job is None or job.state is not JobState.RUNNING or path.name != f"t{job.token}":
            RunFolder(job_folder=path.parent, token=int(path.name[1:])).remove()
            removed.append(path)
    if removed:
        logger.info("Removed %d run folders that dead workers had left.", len(removed))
    return removed
