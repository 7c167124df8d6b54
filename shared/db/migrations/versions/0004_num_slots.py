"""Jobs that occupy several slots of a worker."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Jobs of before occupy one."""
    op.add_column("jobs", sa.Column("num_slots", sa.Integer(), nullable=False, server_default="1"))


def downgrade() -> None:
    """Forget it."""
    op.drop_column("jobs", "num_slots")
