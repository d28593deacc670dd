"""Statements have versions, and those to be made again a list

Revision: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them."""
    version = sa.Column("version", sa.Integer(), server_default="1", nullable=False)
    op.add_column("statements", version)
    op.create_index("ix_statements_month", "statements", ["month"])
    op.create_table(
        "late_statements",
        sa.Column("creator_id", sa.String(length=64), nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("marks", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["creator_id"], ["creators.id"], name=op.f("fk_late_statements_creator_id_creators")
        ),
        sa.PrimaryKeyConstraint("creator_id", name=op.f("pk_late_statements")),
    )


def downgrade() -> None:
    """Undo it."""
    op.drop_table("late_statements")
    op.drop_index("ix_statements_month", "statements")
    op.drop_column("statements", "version")
