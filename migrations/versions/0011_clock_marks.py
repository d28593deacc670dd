"""How far each job's schedule was proposed

Revision: 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the marks; every schedule counts from a clock's next look."""
    op.create_table(
        "clock_marks",
        sa.Column("job", sa.String(length=100), nullable=False),
        sa.Column("seen_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("job", name=op.f("pk_clock_marks")),
    )


def downgrade() -> None:
    """Undo it: ticks that were missed are not found any more."""
    op.drop_table("clock_marks")
