"""What an operator looks at: failed attempts, hand-offs, processes, and who did what

Revision: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLES = (
    "switchyard_audit",
    "switchyard_failures",
    "switchyard_handoffs",
    "switchyard_processes",
)
_TIME = sa.DateTime(timezone=True)

# Stages and pins stay where they are decided by; what was done so far begins the audit.
_DONE_SO_FAR = """
INSERT INTO switchyard_audit (at, act, job, who, why, count, detail)
SELECT at, 'stage', job, "by", why, 1,
  '{"forced":' || CASE WHEN forced THEN 'true' ELSE 'false' END || ',"from":"' || from_stage
  || '","percent":' || COALESCE(CAST(percent AS VARCHAR(30)), 'null') || ',"to":"' || to_stage
  || '"}'
FROM switchyard_stage_changes
UNION ALL
SELECT at, 'pin', job, "by", why, COUNT(*),
  '{"side":' || COALESCE('"' || side || '"', 'null') || '}'
FROM switchyard_pins GROUP BY at, job, "by", why, side
UNION ALL
SELECT explained_at, 'explain', job, COALESCE(explained_by, ''), COALESCE(explained_why, ''),
  COUNT(*), NULL
FROM switchyard_parity WHERE explained_at IS NOT NULL
GROUP BY explained_at, job, explained_by, explained_why
ORDER BY 1
"""


def _run_id(table: str) -> tuple[sa.Column[str], sa.ForeignKeyConstraint]:
    name = f"fk_{table}_run_id_switchyard_runs"
    key = sa.ForeignKeyConstraint(["run_id"], ["switchyard_runs.id"], name=name, ondelete="CASCADE")
    return sa.Column("run_id", sa.String(32), nullable=False), key


def upgrade() -> None:
    """Make the tables, and add the columns."""
    op.add_column("switchyard_runs", sa.Column("trace", sa.Text()))
    op.add_column("switchyard_steps", sa.Column("began_at", _TIME))
    run_id, run = _run_id("switchyard_failures")
    op.create_table(
        "switchyard_failures",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        run_id,
        sa.Column("job", sa.String(100), nullable=False),
        sa.Column("step", sa.String(200)),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("backend", sa.String(20), nullable=False),
        sa.Column("began_at", _TIME),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("error", sa.String(200), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("traceback", sa.Text()),
        run,
        sa.PrimaryKeyConstraint("id", name="pk_switchyard_failures"),
    )
    op.create_index("ix_switchyard_failures_run", "switchyard_failures", ["run_id"])
    op.create_index("ix_switchyard_failures_job", "switchyard_failures", ["job", "at"])
    run_id, run = _run_id("switchyard_handoffs")
    op.create_table(
        "switchyard_handoffs",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        run_id,
        sa.Column("job", sa.String(100), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("from_backend", sa.String(20), nullable=False),
        sa.Column("to_backend", sa.String(20), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        run,
        sa.PrimaryKeyConstraint("id", name="pk_switchyard_handoffs"),
    )
    op.create_index("ix_switchyard_handoffs_run", "switchyard_handoffs", ["run_id"])
    op.create_index("ix_switchyard_handoffs_job", "switchyard_handoffs", ["job", "at"])
    op.create_table(
        "switchyard_processes",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(100), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.Column("doing", sa.String(300), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_switchyard_processes"),
    )
    op.create_table(
        "switchyard_audit",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("act", sa.String(20), nullable=False),
        sa.Column("job", sa.String(100)),
        sa.Column("run_id", sa.String(32)),
        sa.Column("who", sa.String(100), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_switchyard_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_switchyard_audit_job", "switchyard_audit", ["job", "id"])
    op.create_index("ix_switchyard_audit_job_act", "switchyard_audit", ["job", "act", "id"])
    op.create_index("ix_switchyard_audit_act", "switchyard_audit", ["act", "id"])
    op.create_index("ix_switchyard_audit_run", "switchyard_audit", ["run_id", "id"])
    op.execute(_DONE_SO_FAR)


def downgrade() -> None:
    """Drop them, with all that they hold."""
    for table in _TABLES:
        op.drop_table(table)
    op.drop_column("switchyard_steps", "began_at")
    op.drop_column("switchyard_runs", "trace")
