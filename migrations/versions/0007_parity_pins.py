"""Parity of shadows, pinned keys, one line of stage changes, and how each side's runs ended

Revision: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_ENDED = sa.text("status IN ('succeeded', 'failed')")


def upgrade() -> None:
    """Add them. A change written before follows nothing that is known."""
    op.add_column("stage_changes", sa.Column("follows", sa.Integer(), nullable=True))
    op.add_column("stage_changes", sa.Column("forced", sa.Boolean(), nullable=True))
    op.create_index("uq_stage_changes_follows", "stage_changes", ["job", "follows"], unique=True)
    op.create_table(
        "pin_changes",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("job", sa.String(length=100), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("side", sa.String(length=20), nullable=True),
        sa.Column("by", sa.String(length=100), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.CheckConstraint("side IN ('rq', 'serverless')", name=op.f("ck_pin_changes_known_side")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pin_changes")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_pin_changes_latest", "pin_changes", ["job", "key", "id"])
    op.create_table(
        "parity",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("job", sa.String(length=100), nullable=False),
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("planned_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("compared_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("planned", sa.Text(), nullable=True),
        sa.Column("found", sa.Text(), nullable=True),
        sa.Column("differing", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("explained_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("explained_by", sa.String(length=100), nullable=True),
        sa.Column("explained_why", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "kind IN ('planned', 'equal', 'different', 'plan_failed', 'live_failed', 'live_open')",
            name=op.f("ck_parity_known_kind"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_parity")),
        sa.UniqueConstraint("run_id", name=op.f("uq_parity_run_id")),
    )
    op.create_index("ix_parity_kind", "parity", ["job", "kind", "explained_at"])
    op.create_index(
        "ix_runs_ended",
        "runs",
        ["job", "backend", "ended_at"],
        sqlite_where=_ENDED,
        postgresql_where=_ENDED,
    )


def downgrade() -> None:
    """Take them away."""
    op.drop_index("ix_runs_ended", "runs")
    op.drop_table("parity")
    op.drop_table("pin_changes")
    op.drop_index("uq_stage_changes_follows", "stage_changes")
    with op.batch_alter_table("stage_changes") as changes:
        changes.drop_column("forced")
        changes.drop_column("follows")
