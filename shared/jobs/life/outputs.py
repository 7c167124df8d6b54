"""The outputs of a job that has ended well: rows, events, and their ids by type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from shared.base.errors import JobFailedError
from shared.contracts.jobs import SPEC_OF_KIND
from shared.contracts.manifest import Manifest
from shared.contracts.names import OUTPUTS_OF_KIND, ArtifactType, FailureCode
from shared.contracts.specs import ModelSpec
from shared.contracts.views import EventType
from shared.db.repositories.artifacts import add_artifacts
from shared.db.repositories.transitions import add_event
from shared.db.tables import ArtifactRow, JobRow
from shared.db.values import clean_text
from shared.jobs.life.fence import advance
from shared.jobs.life.publication import result_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedOutput:
    """An output whose files and manifest are in the store."""

    output: ArtifactType
    name: str
    prefix: str
    manifest: Manifest


def add_outputs(
    session: Session, held: JobRow, outputs: Sequence[FinishedOutput], now: datetime
) -> dict[str, str]:
    """Write the artifacts of a locked, running job, each with its event; return all ids by type.

    The checkpoint of a job that makes one was committed before and joins here. Raises
    JobFailedError (code `crashed`) when an output of the kind is missing.
    """
    ids = {str(item.output): item.manifest.id for item in outputs}
    checkpoint_id = _committed_result(session, held)
    if checkpoint_id is not None:
        ids[str(ArtifactType.CHECKPOINT)] = checkpoint_id
    missing = OUTPUTS_OF_KIND[held.kind] - ids.keys()
    if missing:
        raise JobFailedError(
            f"The job ended without putting out {', '.join(sorted(missing))}.",
            code=FailureCode.CRASHED,
        )
    add_artifacts(session, [_artifact_row(held, item, now) for item in outputs])
    for item in outputs:
        row = advance(session, held.id, held.token, count=1, values={})
        data = {"output": item.output, "id": item.manifest.id, "name": clean_text(item.name)}
        add_event(session, row, EventType.OUTPUT, data, now)
    return ids


def _artifact_row(held: JobRow, item: FinishedOutput, now: datetime) -> ArtifactRow:
    return ArtifactRow(
        id=item.manifest.id,
        type=item.output,
        name=clean_text(item.name, limit=255),
        job_id=held.id,
        token=held.token,
        prefix=item.prefix,
        manifest=item.manifest.model_dump(mode="json"),
        bytes=item.manifest.total_bytes,
        created_at=now,
    )


def _committed_result(session: Session, held: JobRow) -> str | None:
    spec = SPEC_OF_KIND[held.kind].model_validate(held.spec)
    return result_checkpoint(session, held, spec) if isinstance(spec, ModelSpec) else None
