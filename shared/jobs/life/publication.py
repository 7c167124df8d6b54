"""Checkpoints become rows, and some of them versions of a model, in the same transaction.

Only rows are written here; the objects that tell the inference service are written by the leader
from these rows (`pointers`).
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy.orm import Session

from shared.base.errors import ConflictError, IntegrityError, NotFoundError
from shared.contracts.jobs import SPEC_OF_KIND
from shared.contracts.manifest import CheckpointMeta, Manifest
from shared.contracts.names import JobKind
from shared.contracts.specs import ModelSpec
from shared.contracts.views import EventType
from shared.db.repositories import checkpoints, jobs, models
from shared.db.repositories.transitions import add_event
from shared.db.session import database_now
from shared.db.tables import CheckpointRow, JobRow, ModelRow, ModelVersionRow
from shared.db.values import finite_values
from shared.jobs.life.fence import advance


class Policy(StrEnum):
    """Which checkpoints of a run become versions of its model."""

    LATEST = "latest"
    """Each."""
    BEST = "best"
    """Each that is the best so far."""
    FINAL = "final"
    """The last one."""
    BEST_AT_END = "best_at_end"
    """The best one, when the run has ended."""
    NEVER = "never"
    """None."""


def commit_checkpoint(
    session: Session,
    job_id: str,
    token: int,
    *,
    checkpoint_id: str,
    prefix: str,
    manifest: Manifest,
    manifest_sha256: str,
    best: bool,
) -> CheckpointRow:
    """Let an uploaded checkpoint exist: row, publication by the run's policy, event, no stalls.

    Asking again with the same id changes nothing, so that a commit whose answer was lost can be
    repeated. Raises LeaseLostError when the fence has moved on.
    """
    present = checkpoints.find_checkpoint(session, checkpoint_id)
    if present is not None and present.job_id == job_id:
        return present
    meta = _checkpoint_meta(manifest)
    values = {"last_checkpoint_id": checkpoint_id, "stalls": 0}
    job = advance(session, job_id, token, count=1, values=values)
    now = database_now(session)
    row = CheckpointRow(
        id=checkpoint_id,
        job_id=job_id,
        token=token,
        attempt=job.attempt,
        step=meta.step,
        prefix=prefix,
        manifest=manifest.model_dump(mode="json"),
        manifest_sha256=manifest_sha256,
        tokenizer_sha256=meta.tokenizer_sha256,
        stage=meta.stage,
        best=best,
        final=meta.final,
        metrics=finite_values(meta.metrics),
        bytes=manifest.total_bytes,
        created_at=now,
    )
    checkpoints.add_checkpoint(session, row)
    version = _publish_by_policy(session, job, row, now)
    data = {
        "checkpoint_id": row.id,
        "step": row.step,
        "best": best,
        "final": row.final,
        "metrics": row.metrics,
        "published": None if version is None else f"{version.model}:{version.version}",
    }
    add_event(session, job, EventType.CHECKPOINT, data, now)
    return row


def publish(session: Session, model: str, checkpoint_id: str) -> ModelRow:
    """Serve this checkpoint under `model`: as a new version, or as the one it already is.

    Raises NotFoundError for a checkpoint that is not there (any more).
    """
    checkpoints.share_checkpoint(session, checkpoint_id)
    checkpoint = checkpoints.get_checkpoint(session, checkpoint_id)
    _add_version(session, model, checkpoint, database_now(session))
    return models.get_model(session, model)


def pin(session: Session, model: str, version: int | None) -> ModelRow:
    """Serve `version` whatever is published later; None lifts the pin.

    Raises NotFoundError for an unknown version, ConflictError for one whose files are gone.
    """
    row = models.lock_model(session, model)
    if version is not None:
        found = models.find_version(session, model, version)
        if found is None:
            raise NotFoundError(f"Model {model!r} has no version {version}.", pointer="/version")
        checkpoint = checkpoints.share_checkpoint(session, found.checkpoint_id)
        if checkpoint is None or checkpoint.deleted_at is not None:
            raise ConflictError(
                f"Version {version} of {model!r} can no longer be served: retention has removed "
                "its checkpoint.",
                pointer="/version",
            )
    models.pin_version(session, row, version)
    return row


def result_checkpoint(session: Session, job: JobRow, spec: ModelSpec) -> str | None:
    """The checkpoint that is the output of a run: its best where that is published, else its last.

    None when the run has committed none.
    """
    if (spec.publish or _usual_policy(job)) == Policy.BEST:
        best = checkpoints.best_checkpoint(session, job.id)
        if best is not None:
            return best.id
    return job.last_checkpoint_id


def effective_policy(session: Session, job: JobRow, spec: ModelSpec) -> Policy:
    """The run's policy: what its spec says, else by whether it is the first of its model's name.

    The first run is served as it goes (finetuning: whenever it has become better); a later one
    replaces a served model only with its last (best) checkpoint.
    """
    if spec.publish is not None:
        return Policy(spec.publish)
    model = models.find_model(session, spec.model)
    if model is None or model.first_job_id in _runs_continued_by(session, job):
        return _usual_policy(job)
    return Policy.BEST_AT_END if job.kind is JobKind.FINETUNE else Policy.FINAL


def _usual_policy(job: JobRow) -> Policy:
    return Policy.BEST if job.kind is JobKind.FINETUNE else Policy.LATEST


def _runs_continued_by(session: Session, job: JobRow) -> set[str]:
    """The job and those it tries again."""
    ids = {job.id}
    earlier = job.retry_of
    while earlier is not None:
        ids.add(earlier)
        earlier = jobs.get_job(session, earlier).retry_of
    return ids


def _publish_by_policy(
    session: Session, job: JobRow, row: CheckpointRow, now: datetime
) -> ModelVersionRow | None:
    spec = SPEC_OF_KIND[job.kind].model_validate(job.spec)
    if not isinstance(spec, ModelSpec):
        raise IntegrityError(f"Job {job.id} of kind {job.kind} cannot put out a checkpoint.")
    match effective_policy(session, job, spec):
        case Policy.LATEST:
            chosen: CheckpointRow | None = row
        case Policy.BEST:
            chosen = row if row.best or _is_only_final(session, row) else None
        case Policy.FINAL:
            chosen = row if row.final else None
        case Policy.BEST_AT_END:
            chosen = (checkpoints.best_checkpoint(session, job.id) or row) if row.final else None
        case Policy.NEVER:
            chosen = None
    return None if chosen is None else _add_version(session, spec.model, chosen, now)


def _is_only_final(session: Session, row: CheckpointRow) -> bool:
    """A run that never measured a best one publishes its last."""
    return row.final and checkpoints.best_checkpoint(session, row.job_id) is None


def _add_version(
    session: Session, model: str, checkpoint: CheckpointRow, now: datetime
) -> ModelVersionRow:
    row = models.ensure_model(session, model, first_job_id=checkpoint.job_id, now=now)
    version = models.version_of_checkpoint(session, model, checkpoint.id)
    if version is None:
        version = ModelVersionRow(
            model=model,
            version=models.next_version(session, model),
            checkpoint_id=checkpoint.id,
            created_at=now,
        )
        models.add_version(session, version)
    models.serve_version(session, row, version.version, now)
    return version


def _checkpoint_meta(manifest: Manifest) -> CheckpointMeta:
    if not isinstance(manifest.meta, CheckpointMeta):
        raise IntegrityError(f"Manifest {manifest.id} does not describe a checkpoint.")
    return manifest.meta
