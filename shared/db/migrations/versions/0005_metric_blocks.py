"""Extremes of stretches of a curve, so that a long one is thinned without reading all of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; curves from before are thinned from their points."""
    point = [
        column
        for name in ("last", "low", "high")
        for column in (
            sa.Column(name, sa.Float(), nullable=False),
            sa.Column(f"{name}_step", sa.Integer(), nullable=False),
            sa.Column(f"{name}_seq", sa.BigInteger(), nullable=False),
        )
    ]
    op.create_table(
        "metric_blocks",
        sa.Column("job_id", sa.String(length=255), nullable=False),
        sa.Column("series", sa.String(length=20), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("block", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("points", sa.Integer(), nullable=False),
        *point,
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_metric_blocks_job_id_jobs"),
        sa.PrimaryKeyConstraint("job_id", "series", "attempt", "block", name="pk_metric_blocks"),
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_table("metric_blocks")
