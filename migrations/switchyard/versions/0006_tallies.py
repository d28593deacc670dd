"""What /metrics counts on from

Revision: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, and an index of what was cancelled lately."""
    op.create_table(
        "switchyard_tallies",
        sa.Column("name", sa.String(30), nullable=False),
        sa.Column("job", sa.String(100), nullable=False),
        sa.Column("backend", sa.String(20), nullable=False),
        sa.Column("label", sa.String(30), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "job", "backend", "label", name="pk_switchyard_tallies"),
    )
    only = sa.text("status = 'cancelled'")
    op.create_index(
        "ix_switchyard_runs_cancelled",
        "switchyard_runs",
        ["ended_at"],
        sqlite_where=only,
        postgresql_where=only,
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_switchyard_runs_cancelled", "switchyard_runs")
    op.drop_table("switchyard_tallies")
