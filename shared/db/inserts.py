"""The one statement that SQLAlchemy does not spell alike for both databases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from shared.db.tables import Base


def insert_unless_present(
    session: Session, table: type[Base], values: Sequence[Mapping[str, Any]]
) -> None:
    """Insert rows; one that breaks a unique constraint is left out and what is there stays."""
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    insert = sqlite.insert if is_sqlite else postgresql.insert
    session.execute(insert(table).on_conflict_do_nothing(), values)
