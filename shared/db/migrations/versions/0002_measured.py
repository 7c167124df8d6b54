"""What a training job last measured, on its own row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Jobs of before have measured nothing that is known."""
    op.add_column("jobs", sa.Column("measured", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    """Forget it."""
    op.drop_column("jobs", "measured")
