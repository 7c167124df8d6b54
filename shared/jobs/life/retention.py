"""Which checkpoints of a run may go, so that a long run does not fill the store."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy.orm import Session

from shared.contracts.jobs import SPEC_OF_KIND
from shared.contracts.training_specs import TrainingOptions
from shared.db.repositories import checkpoints, jobs, models
from shared.db.session import database_now
from shared.db.tables import CheckpointRow


def checkpoints_to_delete(
    present: Sequence[CheckpointRow], *, keep_last: int, needed: Collection[str]
) -> list[CheckpointRow]:
    """The checkpoints of one run that nothing holds; pure.

    `present` is in the order of commits. The last `keep_last` stay, the newest best one, the final
    ones and all whose ids are `needed`. Damaged ones count for nothing.
    """
    sound = [row for row in present if row.damaged_at is None]
    best = [row.id for row in sound if row.best][-1:]
    last = [row.id for row in sound[-keep_last:]]
    kept = {*best, *last, *needed}
    return [row for row in present if row.id not in kept and not row.final]


def retire_checkpoints(session: Session, job_id: str) -> list[CheckpointRow]:
    """Give up what `checkpoints_to_delete` finds and return it; then delete its objects.

    From the commit on nobody can choose these checkpoints any more. When the objects' deletion is
    cut short they are garbage without a row that names them as living.
    """
    job = jobs.lock_job(session, job_id)
    spec = SPEC_OF_KIND[job.kind].model_validate(job.spec)
    if not isinstance(spec, TrainingOptions):
        return []
    present = checkpoints.lock_checkpoints(session, job_id)
    needed = {  # read under the lock: who chooses a checkpoint holds it, and was waited for
        *models.served_checkpoints(session),
        *jobs.inputs_of_open_jobs(session),
        *job.outputs.values(),
        job.last_checkpoint_id or "",
    }
    retired = checkpoints_to_delete(present, keep_last=spec.keep_checkpoints, needed=needed)
    checkpoints.mark_deleted(session, [row.id for row in retired], database_now(session))
    return retired
