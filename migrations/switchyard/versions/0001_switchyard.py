"""The layer's tables

Revision: 0001
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = (
    "switchyard_clock_marks",
    "switchyard_parity",
    "switchyard_pins",
    "switchyard_runs",
    "switchyard_stage_changes",
    "switchyard_steps",
)
_TIME = sa.DateTime(timezone=True)


def _where(condition: str) -> dict[str, Any]:
    only = sa.text(condition)
    return {"sqlite_where": only, "postgresql_where": only}


def _check(name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(name))


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "switchyard_clock_marks",
        sa.Column("job", sa.String(100), nullable=False),
        sa.Column("seen_until", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("job", name="pk_switchyard_clock_marks"),
    )
    op.create_table(
        "switchyard_parity",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("job", sa.String(100), nullable=False),
        sa.Column("run_id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("planned_at", _TIME, nullable=False),
        sa.Column("compared_at", _TIME),
        sa.Column("planned", sa.Text()),
        sa.Column("found", sa.Text()),
        sa.Column("differing", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("explained_at", _TIME),
        sa.Column("explained_by", sa.String(100)),
        sa.Column("explained_why", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_switchyard_parity"),
        _check(
            "ck_switchyard_parity_known_kind",
            "kind IN ('planned', 'equal', 'different', 'plan_failed', 'live_failed', 'live_open')",
        ),
        sa.UniqueConstraint("run_id", name="uq_switchyard_parity_run_id"),
    )
    op.create_index(
        "ix_switchyard_parity_kind", "switchyard_parity", ["job", "kind", "explained_at"]
    )
    op.create_index("ix_switchyard_parity_latest", "switchyard_parity", ["job", "id", "kind"])
    op.create_index(
        "ix_switchyard_parity_unexplained",
        "switchyard_parity",
        ["job"],
        **_where("kind IN ('different', 'plan_failed') AND explained_at IS NULL"),
    )
    op.create_table(
        "switchyard_pins",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("job", sa.String(100), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("side", sa.String(20)),
        sa.Column("by", sa.String(100), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_switchyard_pins"),
        _check("ck_switchyard_pins_known_side", "side IN ('rq', 'serverless')"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_switchyard_pins_latest", "switchyard_pins", ["job", "key", "id"])
    op.create_table(
        "switchyard_runs",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("job", sa.String(100), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("backend", sa.String(20), nullable=False),
        sa.Column("reason", sa.String(40), nullable=False),
        sa.Column("stage", sa.String(20), nullable=False),
        sa.Column("stage_version", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("holder", sa.String(64)),
        sa.Column("sends", sa.Integer(), nullable=False),
        sa.Column("sent_ref", sa.String(255)),
        sa.Column("move_to", sa.String(20)),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("slot", sa.Integer()),
        sa.Column("parent_id", sa.String(32)),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("due_at", _TIME, nullable=False),
        sa.Column("check_at", _TIME),
        sa.Column("started_at", _TIME),
        sa.Column("ended_at", _TIME),
        sa.Column("result", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_switchyard_runs"),
        _check(
            "ck_switchyard_runs_open_is_checked",
            "(check_at IS NULL) = (status IN ('succeeded', 'failed', 'cancelled'))",
        ),
        sa.ForeignKeyConstraint(
            ["parent_id"],
            ["switchyard_runs.id"],
            name="fk_switchyard_runs_parent_id_switchyard_runs",
        ),
        sa.UniqueConstraint("job", "key", name="uq_switchyard_runs_job_key"),
    )
    op.create_index(
        "ix_switchyard_runs_children",
        "switchyard_runs",
        ["parent_id", "check_at"],
        **_where("parent_id IS NOT NULL"),
    )
    op.create_index(
        "ix_switchyard_runs_ended",
        "switchyard_runs",
        ["job", "backend", "ended_at"],
        **_where("status IN ('succeeded', 'failed')"),
    )
    op.create_index(
        "ix_switchyard_runs_failed",
        "switchyard_runs",
        ["ended_at", "job", "backend"],
        **_where("status = 'failed'"),
    )
    op.create_index(
        "ix_switchyard_runs_open",
        "switchyard_runs",
        ["check_at", "job", "backend"],
        **_where("check_at IS NOT NULL"),
    )
    op.create_index(
        "uq_switchyard_runs_slot",
        "switchyard_runs",
        ["job", "slot"],
        unique=True,
        **_where("slot IS NOT NULL"),
    )
    op.create_table(
        "switchyard_stage_changes",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("job", sa.String(100), nullable=False),
        sa.Column("from_stage", sa.String(20), nullable=False),
        sa.Column("to_stage", sa.String(20), nullable=False),
        sa.Column("percent", sa.Double()),
        sa.Column("by", sa.String(100), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("follows", sa.Integer()),
        sa.Column("forced", sa.Boolean()),
        sa.PrimaryKeyConstraint("id", name="pk_switchyard_stage_changes"),
        _check(
            "ck_switchyard_stage_changes_known_stage",
            "to_stage IN ('legacy', 'shadow', 'ramp', 'live', 'complete')",
        ),
        _check(
            "ck_switchyard_stage_changes_ramp_has_percent",
            "(to_stage = 'ramp') = (percent IS NOT NULL) AND"
            " (percent IS NULL OR (percent >= 0 AND percent <= 100))",
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_switchyard_stage_changes_latest", "switchyard_stage_changes", ["job", "id"])
    op.create_index(
        "uq_switchyard_stage_changes_follows",
        "switchyard_stage_changes",
        ["job", "follows"],
        unique=True,
    )
    op.create_table(
        "switchyard_steps",
        sa.Column("run_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("backend", sa.String(20), nullable=False),
        sa.Column("result", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("until", _TIME),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "name", name="pk_switchyard_steps"),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["switchyard_runs.id"],
            name="fk_switchyard_steps_run_id_switchyard_runs",
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    """Drop them, with all that they hold."""
    for table in reversed(_TABLES):
        op.drop_table(table)
