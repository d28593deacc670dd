"""Earnings summed up by day and month, dirty days, and statements

Revision: 0004
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from app.platform.earnings import rollup_models

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _rollup(
    name: str, *keys: sa.Column[Any], extra: tuple[sa.Column[Any], ...] = (), **options: Any
) -> None:
    sums = [sa.Column(n, sa.BigInteger(), nullable=False) for n in _SUMS]
    names = [column.name for column in keys]
    owner = (
        [
            sa.ForeignKeyConstraint(
                ["creator_id"], ["creators.id"], name=op.f(f"fk_{name}_creator_id_creators")
            )
        ]
        if "creator_id" in names
        else []
    )
    key = sa.PrimaryKeyConstraint(*names, name=op.f(f"pk_{name}"))
    op.create_table(name, *keys, *extra, *sums, key, *owner, **options)


_TYPES: dict[str, Any] = {
    "day": sa.Date(),
    "month": sa.Date(),
    "creator_id": sa.String(length=64),
    "currency": sa.String(length=3),
    "source": sa.String(length=40),
}


def _column(name: str) -> sa.Column[Any]:
    return sa.Column(name, _TYPES[name], nullable=False)


_SUMS = ("gross", "refunds", "fees", "net", "count")


def upgrade() -> None:
    """Add them; every day that has earnings is dirty."""
    by_key: dict[str, Any] = {"sqlite_with_rowid": False}
    _rollup(
        "daily_earnings",
        _column("day"),
        _column("creator_id"),
        _column("currency"),
        _column("source"),
        **by_key,
    )
    op.create_index("ix_daily_earnings_creator", "daily_earnings", ["creator_id", "day"])
    _rollup(
        "monthly_earnings",
        _column("month"),
        _column("creator_id"),
        _column("currency"),
        _column("source"),
        **by_key,
    )
    op.create_index("ix_monthly_earnings_creator", "monthly_earnings", ["creator_id", "month"])
    roomy: dict[str, Any] = {**by_key, "postgresql_with": {"fillfactor": 50}}
    _rollup("lifetime_earnings", _column("creator_id"), _column("currency"), **roomy)
    creators = sa.Column("creators", sa.Integer(), nullable=False)
    _rollup(
        "platform_days", _column("day"), _column("currency"), _column("source"), extra=(creators,)
    )
    op.create_table(
        "dirty_days",
        _column("day"),
        sa.Column("mark", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("day", "mark", name=op.f("pk_dirty_days")),
    )
    op.create_table(
        "statements",
        sa.Column("id", sa.String(length=100), nullable=False),
        _column("creator_id"),
        _column("month"),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("csv_path", sa.String(length=200), nullable=False),
        sa.Column("pdf_path", sa.String(length=200), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["creator_id"], ["creators.id"], name=op.f("fk_statements_creator_id_creators")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_statements")),
        sa.UniqueConstraint("creator_id", "month", name=op.f("uq_statements_creator_id_month")),
    )
    dialect = op.get_bind().dialect.name
    days = "date(occurred_at)" if dialect == "sqlite" else "(occurred_at AT TIME ZONE 'UTC')::date"
    op.execute(f"INSERT INTO dirty_days (day, mark) SELECT DISTINCT {days}, 0 FROM earnings")
    for statement in rollup_models.MARKS[dialect]:
        op.execute(statement)


def downgrade() -> None:
    """Undo it: the sums can be made again, the statements' rows are lost."""
    for statement in rollup_models.REMOVE_MARKS[op.get_bind().dialect.name]:
        op.execute(statement)
    for table in (
        *("statements", "dirty_days", "platform_days"),
        *("lifetime_earnings", "monthly_earnings", "daily_earnings"),
    ):
        op.drop_table(table)
