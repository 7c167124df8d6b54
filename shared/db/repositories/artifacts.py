"""Rows of artifacts (datasets, tokenizers, token sets, exports) and of uploads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from shared.base.errors import NotFoundError
from shared.contracts.names import ArtifactType
from shared.db.tables import ArtifactRow, UploadRow


def add_artifacts(session: Session, rows: Collection[ArtifactRow]) -> None:
    """Insert them."""
    session.add_all(rows)
    session.flush()


def find_artifact(session: Session, artifact_id: str) -> ArtifactRow | None:
    """The artifact, or None."""
    return session.get(ArtifactRow, artifact_id)


def get_artifact(
    session: Session, artifact_id: str, types: Collection[ArtifactType] = ()
) -> ArtifactRow:
    """The artifact, of one of `types` when given; raises NotFoundError."""
    row = find_artifact(session, artifact_id)
    if row is None or (types and row.type not in types):
        raise NotFoundError(f"There is no {' or '.join(types) or 'artifact'} {artifact_id}.")
    return row


def list_artifacts(
    session: Session, types: Collection[ArtifactType], *, after: str | None = None, limit: int
) -> Sequence[ArtifactRow]:
    """Up to `limit` artifacts of these types, newest first, older than the artifact `after`."""
    query = (
        select(ArtifactRow)
        .where(ArtifactRow.type.in_(types))
        .order_by(ArtifactRow.id.desc())
        .limit(limit)
    )
    if after is not None:
        query = query.where(ArtifactRow.id < after)
    return session.scalars(query).all()


def prefixes_of_job(session: Session, job_id: str) -> set[str]:
    """Where the files of a job's artifacts are."""
    return set(session.scalars(select(ArtifactRow.prefix).where(ArtifactRow.job_id == job_id)))


def delete_unfinished_uploads(session: Session, *, before: datetime) -> None:
    """Forget uploads that were announced before then and whose content never came."""
    session.execute(
        delete(UploadRow).where(UploadRow.state == "writing", UploadRow.created_at < before)
    )


def add_upload(session: Session, row: UploadRow) -> None:
    """Insert an upload that is about to be written."""
    session.add(row)
    session.flush()


def find_upload(session: Session, upload_id: str) -> UploadRow | None:
    """The upload as it is now, or None."""
    return session.get(UploadRow, upload_id, populate_existing=True)


def get_upload(session: Session, upload_id: str) -> UploadRow:
    """The upload as it is now; raises NotFoundError."""
    row = find_upload(session, upload_id)
    if row is None:
        raise NotFoundError(f"There is no upload {upload_id}.")
    return row


def lock_upload(session: Session, upload_id: str) -> UploadRow:
    """The upload, which nobody else changes before this transaction ends; or NotFoundError."""
    row = session.get(UploadRow, upload_id, populate_existing=True, with_for_update=True)
    if row is None:
        raise NotFoundError(f"There is no upload {upload_id}.")
    return row


def list_uploads(session: Session, *, after: str | None = None, limit: int) -> Sequence[UploadRow]:
    """Up to `limit` uploads, newest first, older than the upload `after`."""
    query = select(UploadRow).order_by(UploadRow.id.desc()).limit(limit)
    if after is not None:
        query = query.where(UploadRow.id < after)
    return session.scalars(query).all()
