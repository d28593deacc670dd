"""What the ledger is searched by: each job's newest runs, and those in trouble

Revision: 0007
"""

from __future__ import annotations

from contextlib import nullcontext

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_ALL = sa.text("epoch > 0")
_TROUBLED = sa.text("error IS NOT NULL OR status = 'cancelled'")


def upgrade() -> None:
    """Build the indexes; on Postgres beside whoever writes."""
    context = op.get_context()
    on_postgres = context.dialect.name == "postgresql"
    with context.autocommit_block() if on_postgres else nullcontext():
        op.create_index(
            "ix_switchyard_runs_newest",
            "switchyard_runs",
            ["job", "id"],
            sqlite_where=_ALL,
            postgresql_where=_ALL,
            postgresql_concurrently=True,
            if_not_exists=True,
        )
        op.create_index(
            "ix_switchyard_runs_troubled",
            "switchyard_runs",
            ["id", "job", "backend", "status"],
            sqlite_where=_TROUBLED,
            postgresql_where=_TROUBLED,
            postgresql_concurrently=True,
            if_not_exists=True,
        )


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_switchyard_runs_troubled", "switchyard_runs")
    op.drop_index("ix_switchyard_runs_newest", "switchyard_runs")
