"""Who a job belongs to, and checkpoints whose bytes turned out to be damaged."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add both columns; rows from before belong to nobody in particular."""
    op.add_column(
        "jobs", sa.Column("owner", sa.String(length=255), nullable=False, server_default="")
    )
    op.add_column("checkpoints", sa.Column("damaged_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Remove them."""
    op.drop_column("checkpoints", "damaged_at")
    op.drop_column("jobs", "owner")
