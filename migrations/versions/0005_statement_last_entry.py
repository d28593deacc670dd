"""A statement says which of the ledger's entries is its newest

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
    """Add it."""
    newest = sa.Column("last_entry", sa.BigInteger(), server_default="0", nullable=False)
    op.add_column("statements", newest)


def downgrade() -> None:
    """Undo it."""
    op.drop_column("statements", "last_entry")
