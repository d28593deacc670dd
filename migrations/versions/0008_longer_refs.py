"""Room for QStash's message ids

Revision: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Postgres alone minds a column's length, and lengthens it without a rewrite."""
    _resize(64, 255)


def downgrade() -> None:
    """Undo it: references that are longer are forgotten, and their runs told again if need be."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("UPDATE runs SET sent_ref = NULL WHERE length(sent_ref) > 64")
    _resize(255, 64)


def _resize(before: int, after: int) -> None:
    if op.get_bind().dialect.name == "postgresql":
        kinds = (sa.String(length=before), sa.String(length=after))
        op.alter_column("runs", "sent_ref", existing_type=kinds[0], type_=kinds[1])
