"""What is good once: signed calls and console sessions

Revision: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "switchyard_nonces",
        sa.Column("id", sa.String(300), nullable=False),
        sa.Column("value", sa.String(300), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_switchyard_nonces"),
    )
    op.create_index("ix_switchyard_nonces_expires_at", "switchyard_nonces", ["expires_at"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("switchyard_nonces")
