"""Rows of models and of their published versions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import and_, case, func, not_, or_, select, update
from sqlalchemy.orm import Session, aliased

from shared.base.errors import NotFoundError
from shared.db.inserts import insert_unless_present
from shared.db.tables import CheckpointRow, ModelRow, ModelVersionRow


def find_model(session: Session, name: str) -> ModelRow | None:
    """The model as it is now, or None."""
    return session.get(ModelRow, name, populate_existing=True)


def get_model(session: Session, name: str) -> ModelRow:
    """The model as it is now; raises NotFoundError."""
    row = find_model(session, name)
    if row is None:
        raise NotFoundError(
            f"There is no model {name!r}.", hint="A model exists once a checkpoint is published."
        )
    return row


def lock_model(session: Session, name: str) -> ModelRow:
    """The model, which nobody else changes before this transaction ends; raises NotFoundError."""
    get_model(session, name)
    return session.get_one(ModelRow, name, populate_existing=True, with_for_update=True)


def ensure_model(session: Session, name: str, *, first_job_id: str, now: datetime) -> ModelRow:
    """The model, created when it is missing, locked; two runs may both be the first to ask."""
    values = {
        "name": name,
        "first_job_id": first_job_id,
        "pointer_seq": 0,
        "pointer_dirty": False,
        "published_at": now,
    }
    insert_unless_present(session, ModelRow, [values])
    return lock_model(session, name)


def add_version(session: Session, row: ModelVersionRow) -> None:
    """Insert a published version."""
    session.add(row)
    session.flush()


def next_version(session: Session, name: str) -> int:
    """The number of the version that is published next; the model must be locked."""
    query = select(func.max(ModelVersionRow.version)).where(ModelVersionRow.model == name)
    return (session.scalar(query) or 0) + 1


def find_version(session: Session, name: str, version: int) -> ModelVersionRow | None:
    """One version, or None."""
    return session.get(ModelVersionRow, (name, version))


def version_of_checkpoint(
    session: Session, name: str, checkpoint_id: str
) -> ModelVersionRow | None:
    """The newest version under which this model has published the checkpoint."""
    query = (
        select(ModelVersionRow)
        .where(ModelVersionRow.model == name, ModelVersionRow.checkpoint_id == checkpoint_id)
        .order_by(ModelVersionRow.version.desc())
        .limit(1)
    )
    return session.scalars(query).one_or_none()


def list_models(session: Session) -> Sequence[ModelRow]:
    """All models, by name."""
    return session.scalars(select(ModelRow).order_by(ModelRow.name)).all()


def list_versions(
    session: Session, names: Collection[str]
) -> Sequence[tuple[ModelVersionRow, CheckpointRow]]:
    """The versions of these models with their checkpoints, newest first."""
    query = (
        select(ModelVersionRow, CheckpointRow)
        .join(CheckpointRow, CheckpointRow.id == ModelVersionRow.checkpoint_id)
        .where(ModelVersionRow.model.in_(names))
        .order_by(ModelVersionRow.model, ModelVersionRow.version.desc())
    )
    return [(version, checkpoint) for version, checkpoint in session.execute(query)]


def versions_of_checkpoints(
    session: Session, checkpoint_ids: Collection[str]
) -> dict[str, list[str]]:
    """By checkpoint id, what it is published as, such as `demo:3`."""
    query = (
        select(ModelVersionRow)
        .where(ModelVersionRow.checkpoint_id.in_(checkpoint_ids))
        .order_by(ModelVersionRow.model, ModelVersionRow.version)
    )
    published: dict[str, list[str]] = {}
    for row in session.scalars(query):
        published.setdefault(row.checkpoint_id, []).append(f"{row.model}:{row.version}")
    return published


def served_checkpoints(session: Session) -> set[str]:
    """Checkpoints that a model serves, has pinned, or served just before: one can go back."""
    earlier = aliased(ModelVersionRow)
    previous = (
        select(func.max(earlier.version))
        .where(earlier.model == ModelRow.name, earlier.version < ModelRow.served_version)
        .scalar_subquery()
    )
    version = ModelVersionRow.version
    query = (
        select(ModelVersionRow.checkpoint_id)
        .join(ModelRow, ModelRow.name == ModelVersionRow.model)
        .where(
            or_(
                version == ModelRow.served_version,
                version == ModelRow.pinned_version,
                version == previous,
            )
        )
    )
    return set(session.scalars(query))


def serve_version(session: Session, row: ModelRow, version: int, now: datetime) -> None:
    """Make `version` the served one; the leader writes the pointer. The row must be locked."""
    row.served_version = version
    row.published_at = now
    row.pointer_dirty = True
    session.flush()


def pin_version(session: Session, row: ModelRow, version: int | None) -> None:
    """Set or lift a pin; the leader writes the pointer. The row must be locked."""
    row.pinned_version = version
    row.pointer_dirty = True
    session.flush()


def dirty_models(session: Session) -> Sequence[ModelRow]:
    """Models whose pointer object is behind, longest first."""
    query = select(ModelRow).where(ModelRow.pointer_dirty).order_by(ModelRow.published_at)
    return session.scalars(query).all()


def mark_pointer_written(
    session: Session, name: str, *, served: int | None, pinned: int | None, seq: int
) -> None:
    """Note the pointer's number; it is (or becomes) dirty when the choice has changed meanwhile.

    That also heals what two leaders did that overlapped: the older one leaves it dirty.
    """
    unchanged = and_(
        ModelRow.served_version.is_not_distinct_from(served),
        ModelRow.pinned_version.is_not_distinct_from(pinned),
    )
    session.execute(
        update(ModelRow)
        .where(ModelRow.name == name)
        .values(
            pointer_seq=case((ModelRow.pointer_seq > seq, ModelRow.pointer_seq), else_=seq),
            pointer_dirty=not_(unchanged),
        )
        .execution_options(synchronize_session=False)
    )
