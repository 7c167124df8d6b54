"""All tables of the first version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TEXT = sa.String(length=255)
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make every table, those that others refer to first."""
    _create_pipelines()
    _create_jobs()
    _create_job_parents()
    _create_events()
    _create_metrics()
    _create_logs()
    _create_artifacts()
    _create_uploads()
    _create_checkpoints()
    _create_models()
    _create_model_versions()
    _create_workers()
    _create_leaders()
    _create_idempotency_keys()


def downgrade() -> None:
    """Drop every table."""
    for table in (
        "idempotency_keys",
        "leaders",
        "workers",
        "model_versions",
        "models",
        "checkpoints",
        "uploads",
        "artifacts",
        "logs",
        "metrics",
        "events",
        "job_parents",
        "jobs",
        "pipelines",
    ):
        op.drop_table(table)


def _create_pipelines() -> None:
    op.create_table(
        "pipelines",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pipelines"),
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("queue", sa.String(length=30), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("desired", sa.String(length=10), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("resolved_inputs", sa.JSON(), nullable=False),
        sa.Column("outputs", sa.JSON(), nullable=False),
        sa.Column("reuse_key", sa.String(length=64), nullable=True),
        sa.Column("fresh", sa.Boolean(), nullable=False),
        sa.Column("reused_job_id", TEXT, nullable=True),
        sa.Column("retry_of", TEXT, nullable=True),
        sa.Column("code_version", TEXT, nullable=False),
        sa.Column("pipeline_id", TEXT, nullable=True),
        sa.Column("pipeline_key", TEXT, nullable=True),
        sa.Column("pipeline_position", sa.Integer(), nullable=True),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("stalls", sa.Integer(), nullable=False),
        sa.Column("lease_owner", TEXT, nullable=True),
        sa.Column("lease_expires_at", MOMENT, nullable=True),
        sa.Column("dispatched_at", MOMENT, nullable=True),
        sa.Column("phase", TEXT, nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("total_steps", sa.Integer(), nullable=False),
        sa.Column("tokens_per_second", sa.Float(), nullable=True),
        sa.Column("eta_seconds", sa.Float(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("last_checkpoint_id", TEXT, nullable=True),
        sa.Column("error_code", TEXT, nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("error_hint", sa.Text(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT, nullable=True),
        sa.Column("finished_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(
            ["pipeline_id"], ["pipelines.id"], name="fk_jobs_pipeline_id_pipelines"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index(
        "ix_jobs_claimable",
        "jobs",
        ["state", "queue", sa.column("priority").desc(), "created_at", "id"],
    )
    op.create_index("ix_jobs_pipeline_id", "jobs", ["pipeline_id"])
    op.create_index("ix_jobs_retry_of", "jobs", ["retry_of"])
    op.create_index("ix_jobs_reuse_key", "jobs", ["reuse_key"])


def _create_job_parents() -> None:
    op.create_table(
        "job_parents",
        sa.Column("job_id", TEXT, nullable=False),
        sa.Column("field", TEXT, nullable=False),
        sa.Column("parent_id", TEXT, nullable=False),
        sa.Column("output", sa.String(length=20), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_parents_job_id_jobs"),
        sa.ForeignKeyConstraint(["parent_id"], ["jobs.id"], name="fk_job_parents_parent_id_jobs"),
        sa.PrimaryKeyConstraint("job_id", "field", name="pk_job_parents"),
    )
    op.create_index("ix_job_parents_parent", "job_parents", ["parent_id"])


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("job_id", TEXT, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("type", sa.String(length=20), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_events_job_id_jobs"),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_events"),
    )


def _create_metrics() -> None:
    op.create_table(
        "metrics",
        sa.Column("job_id", TEXT, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("series", sa.String(length=20), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.Column("loss", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_metrics_job_id_jobs"),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_metrics"),
        sa.UniqueConstraint(
            "job_id", "series", "attempt", "step", name="uq_metrics_job_id_series_attempt_step"
        ),
    )
    op.create_index("ix_metrics_curve", "metrics", ["job_id", "series", "step"])


def _create_logs() -> None:
    op.create_table(
        "logs",
        sa.Column("job_id", TEXT, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_logs_job_id_jobs"),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_logs"),
    )


def _create_artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("type", sa.String(length=20), nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("job_id", TEXT, nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("prefix", TEXT, nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_artifacts_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_artifacts"),
    )
    op.create_index("ix_artifacts_job_id", "artifacts", ["job_id"])
    op.create_index("ix_artifacts_listing", "artifacts", ["type", "id"])


def _create_uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("filename", TEXT, nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("declared_bytes", sa.BigInteger(), nullable=True),
        sa.Column("declared_sha256", sa.String(length=64), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )


def _create_checkpoints() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("job_id", TEXT, nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("prefix", TEXT, nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("manifest_sha256", sa.String(length=64), nullable=False),
        sa.Column("tokenizer_sha256", sa.String(length=64), nullable=False),
        sa.Column("stage", sa.String(length=20), nullable=False),
        sa.Column("best", sa.Boolean(), nullable=False),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("deleted_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_checkpoints_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_checkpoints"),
    )
    op.create_index("ix_checkpoints_of_job", "checkpoints", ["job_id", "step"])


def _create_models() -> None:
    op.create_table(
        "models",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("first_job_id", TEXT, nullable=False),
        sa.Column("served_version", sa.Integer(), nullable=True),
        sa.Column("pinned_version", sa.Integer(), nullable=True),
        sa.Column("pointer_seq", sa.Integer(), nullable=False),
        sa.Column("pointer_dirty", sa.Boolean(), nullable=False),
        sa.Column("published_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_models"),
    )


def _create_model_versions() -> None:
    op.create_table(
        "model_versions",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("checkpoint_id", TEXT, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"],
            ["checkpoints.id"],
            name="fk_model_versions_checkpoint_id_checkpoints",
        ),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name="fk_model_versions_model_models"),
        sa.PrimaryKeyConstraint("model", "version", name="pk_model_versions"),
    )
    op.create_index("ix_model_versions_checkpoint_id", "model_versions", ["checkpoint_id"])


def _create_workers() -> None:
    op.create_table(
        "workers",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("slots", sa.JSON(), nullable=False),
        sa.Column("running", sa.JSON(), nullable=False),
        sa.Column("heartbeat_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )


def _create_leaders() -> None:
    op.create_table(
        "leaders",
        sa.Column("name", sa.String(length=30), nullable=False),
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leaders"),
    )


def _create_idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("key", TEXT, nullable=False),
        sa.Column("request_sha256", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("location", TEXT, nullable=False),
        sa.Column("response", sa.JSON(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_idempotency_keys"),
    )
