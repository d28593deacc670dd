"""What a run says of itself: its progress, and what rq's job.meta keeps

Revision: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add both columns."""
    op.add_column("switchyard_runs", sa.Column("progress", sa.Text()))
    op.add_column("switchyard_runs", sa.Column("meta", sa.Text()))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("switchyard_runs", "meta")
    op.drop_column("switchyard_runs", "progress")
