"""What the relay's three concerns go by

Revision: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COLUMNS = ("send_at", "idle_since", "message_at")


def upgrade() -> None:
    """Add the columns; a run that was to be sent when due is found by its check."""
    for name in COLUMNS:
        op.add_column("switchyard_runs", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    only = sa.text("send_at IS NOT NULL")
    op.create_index(
        "ix_switchyard_runs_unsent",
        "switchyard_runs",
        ["send_at"],
        sqlite_where=only,
        postgresql_where=only,
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_switchyard_runs_unsent", "switchyard_runs")
    for name in reversed(COLUMNS):
        op.drop_column("switchyard_runs", name)
