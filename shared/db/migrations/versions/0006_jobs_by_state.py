"""A page of the jobs in one state, newest first, without sorting all of them."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index."""
    op.create_index("ix_jobs_listing", "jobs", ["state", "id"])


def downgrade() -> None:
    """Remove it."""
    op.drop_index("ix_jobs_listing", "jobs")
