"""`run.json`: everything a job's process is told. It reads no setting and no database."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from shared.contracts.base import Contract
from shared.contracts.jobs import AnySpec
from shared.contracts.names import JobKind

RUN_FILE_NAME = "run.json"
EXIT_CODE_FILE = "exit-code"
"""Beside the run file of a job of several processes: the first writes there how the job ended."""


class RunInput(Contract):
    """One input, already on this machine's disk and verified."""

    id: str
    """The artifact's id."""
    path: Path
    """Its folder; for an upload, the file itself."""
    name: str
    """Its label, or the upload's file name."""


class RunFile(Contract):
    """Paths are absolute."""

    job_id: str
    kind: JobKind
    attempt: int = Field(ge=1)
    token: int = Field(ge=1)
    spec: AnySpec
    """The job's spec as submitted."""
    inputs: dict[str, RunInput]
    """By the input's path in the spec (`tokens`, `files.0`); those not given are absent.
    `resume_from` is not among them: it became `resume`."""
    resume: Path | None = None
    """A checkpoint folder to continue from."""
    spool: Path
    """Where checkpoint folders are put."""
    outputs: Path
    """Where output folders are put."""
    events: Path
    """The JSON-lines file to append to."""
    reserved_gpu_bytes: int = Field(0, ge=0)
    """GPU memory that is another process's."""
    num_threads: int = Field(ge=1)
    """CPU threads to use."""
    slot_locks: Path
    """Folder in which a job that computes on a GPU locks it."""
    code_version: str
    """Version (and commit, if known) of this code, for the record."""
