"""How many slots of a worker a job needs, and whether any worker has them."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.orm import Session

from shared.base.errors import InvalidInputError
from shared.contracts.names import QUEUE_OF_KIND, JobKind
from shared.contracts.specs import Spec
from shared.contracts.training_specs import TrainingOptions
from shared.db.repositories import workers
from shared.db.session import database_now
from shared.jobs.timing import LEASE_SECONDS


def slots_of(spec: Spec) -> int:
    """One, or the GPUs that the job trains on."""
    return spec.num_gpus if isinstance(spec, TrainingOptions) else 1


def check_slots(session: Session, kind: JobKind, spec: Spec, *, pointer: str) -> None:
    """Raise InvalidInputError when workers are there and none has slots enough.

    Without any worker nobody knows what the next one will have; the job then waits for it.
    """
    needed = slots_of(spec)
    if needed == 1:
        return
    seen_since = database_now(session) - timedelta(seconds=LEASE_SECONDS)
    rows = workers.list_workers(session, seen_since=seen_since)
    offered = [row.slots[QUEUE_OF_KIND[kind]] for row in rows if QUEUE_OF_KIND[kind] in row.slots]
    if offered and max(offered) < needed:
        raise InvalidInputError(
            f"The job asks for {needed} GPUs; the largest worker here offers {max(offered)}.",
            hint="Lower num_gpus, or set RYANGPT_GPU_SLOTS of a trainer to the GPUs it has.",
            pointer=f"{pointer}/num_gpus",
        )
