"""Where each object lives. Keys are built from ids and numbers only, never from a user's text."""

from __future__ import annotations

from shared.contracts.names import ArtifactType

JOBS_FOLDER = "jobs/"
UPLOADS_FOLDER = "uploads/"


def checkpoint_prefix(job_id: str, token: int, step: int) -> str:
    """Folder of a checkpoint; the fence is part of it, so a stale worker overwrites nothing."""
    return f"{JOBS_FOLDER}{job_id}/t{token}/step-{step}/"


def output_prefix(job_id: str, token: int, output: ArtifactType) -> str:
    """Folder of another output."""
    return f"{JOBS_FOLDER}{job_id}/t{token}/{output}/"


def report_key(job_id: str) -> str:
    """The finished run's report."""
    return f"{JOBS_FOLDER}{job_id}/report.md"


def upload_key(upload_id: str) -> str:
    """An uploaded file."""
    return f"{UPLOADS_FOLDER}{upload_id}"
