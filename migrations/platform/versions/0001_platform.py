"""The platform's tables

Revision: 0001
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = (
    *("creators", "entries", "media"),
    *("webhook_events", "daily_earnings", "earnings"),
    *("payouts", "statements"),
    *("dirty_days", "payout_attempts"),
)
"""Each after those that it refers to."""
_FUNCTIONS = (
    *("entries_refuse", "earnings_refuse", "payouts_refuse"),
    *("earnings_dirty_insert", "earnings_dirty_delete", "earnings_dirty_update"),
)
_TIME = sa.DateTime(timezone=True)


def _where(condition: str) -> dict[str, Any]:
    only = sa.text(condition)
    return {"sqlite_where": only, "postgresql_where": only}


def _check(name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(name))


def _currency(table: str) -> sa.CheckConstraint:
    letters = "ltrim(currency, 'abcdefghijklmnopqrstuvwxyz') = ''"
    return _check(f"ck_{table}_currency", f"length(currency) = 3 AND {letters}")


def _creator(table: str) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_creator_id_creators"
    return sa.ForeignKeyConstraint(["creator_id"], ["creators.id"], name=name)


def _sums() -> list[sa.Column[int]]:
    names = ("gross", "refunds", "fees", "net", "count")
    return [sa.Column(name, sa.BigInteger(), nullable=False) for name in names]


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "creators",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("country", sa.String(2), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("stripe_account_id", sa.String(64)),
        sa.Column("payouts_enabled", sa.Boolean(), nullable=False),
        sa.Column("transfers_active", sa.Boolean(), nullable=False),
        sa.Column("disabled_reason", sa.String(100)),
        sa.Column("manual_payouts", sa.Boolean(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_creators"),
        _currency("creators"),
        _check(
            "ck_creators_id_plain",
            "length(id) > 0 AND ltrim(id, 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
            "0123456789_-.') = ''",
        ),
        sa.UniqueConstraint("stripe_account_id", name="uq_creators_stripe_account_id"),
    )
    op.create_table(
        "entries",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("ref", sa.String(255), nullable=False),
        sa.Column(
            "debit",
            sa.String(280).with_variant(sa.String(280, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column(
            "credit",
            sa.String(280).with_variant(sa.String(280, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_entries"),
        _check("ck_entries_amount_positive", "amount > 0 AND amount = CAST(amount AS BIGINT)"),
        _currency("entries"),
        _check("ck_entries_two_accounts", "debit <> credit"),
        sa.UniqueConstraint(
            "kind",
            "ref",
            "debit",
            "credit",
            "currency",
            name="uq_entries_kind_ref_debit_credit_currency",
        ),
    )
    op.create_index("ix_entries_credit", "entries", ["credit", "currency", "amount"])
    op.create_index("ix_entries_debit", "entries", ["debit", "currency", "amount"])
    op.create_table(
        "media",
        sa.Column("id", sa.String(50), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("run_id", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_media"),
    )
    op.create_table(
        "webhook_events",
        sa.Column("id", sa.String(100), nullable=False),
        sa.Column("source", sa.String(40), nullable=False),
        sa.Column("event", sa.String(200), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("content_type", sa.String(200), nullable=False),
        sa.Column("received_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_events"),
    )
    op.create_index("ix_webhook_events_received", "webhook_events", ["received_at"])
    op.create_table(
        "daily_earnings",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("creator_id", sa.String(64), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("source", sa.String(40), nullable=False),
        *_sums(),
        sa.PrimaryKeyConstraint(
            "day", "creator_id", "currency", "source", name="pk_daily_earnings"
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_daily_earnings_creator", "daily_earnings", ["creator_id", "day"])
    op.create_table(
        "earnings",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("creator_id", sa.String(64), nullable=False),
        sa.Column("source", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("gross", sa.BigInteger(), nullable=False),
        sa.Column("fee", sa.BigInteger(), nullable=False),
        sa.Column("refund_of", sa.String(64)),
        sa.Column("occurred_at", _TIME, nullable=False),
        sa.Column("posted", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_earnings"),
        _check("ck_earnings_amounts", "gross > 0 AND fee >= 0 AND fee <= gross"),
        _currency("earnings"),
        _check(
            "ck_earnings_kind",
            "(kind = 'earning' AND refund_of IS NULL) OR"
            " (kind IN ('refund', 'dispute', 'dispute_won') AND refund_of IS NOT NULL)",
        ),
        _creator("earnings"),
        sa.ForeignKeyConstraint(
            ["refund_of"], ["earnings.id"], name="fk_earnings_refund_of_earnings"
        ),
    )
    op.create_index("ix_earnings_creator", "earnings", ["creator_id", "occurred_at"])
    op.create_index("ix_earnings_refund_of", "earnings", ["refund_of"])
    op.create_index("ix_earnings_time", "earnings", ["occurred_at"])
    op.create_index(
        "ix_earnings_unposted",
        "earnings",
        ["id"],
        sqlite_where=sa.text("posted = 0"),
        postgresql_where=sa.text("NOT posted"),
    )
    op.create_table(
        "payouts",
        sa.Column("id", sa.String(240), nullable=False),
        sa.Column("creator_id", sa.String(64), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("reason", sa.String(100)),
        sa.Column("method", sa.String(10), nullable=False),
        sa.Column("payout_date", sa.Date()),
        sa.Column("run_id", sa.String(32)),
        sa.Column("transfer_id", sa.String(64)),
        sa.Column("bank_payout_id", sa.String(64)),
        sa.Column("requested_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.Column("settled_at", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_payouts"),
        _check("ck_payouts_amount_positive", "amount > 0"),
        _currency("payouts"),
        _check("ck_payouts_method", "method IN ('standard', 'instant')"),
        _check(
            "ck_payouts_sent_has_transfer",
            "transfer_id IS NOT NULL OR status IN ('requested', 'sending', 'failed')",
        ),
        _check(
            "ck_payouts_settled_has_time",
            "(settled_at IS NOT NULL) = (status IN ('paid', 'failed', 'bank_failed', 'reversed'))",
        ),
        _check(
            "ck_payouts_status",
            "status IN ('requested', 'sending', 'transferred', 'paying', 'in_transit', 'paid',"
            " 'failed', 'bank_failed', 'reversed')",
        ),
        _creator("payouts"),
        sa.UniqueConstraint("bank_payout_id", name="uq_payouts_bank_payout_id"),
        sa.UniqueConstraint("transfer_id", name="uq_payouts_transfer_id"),
    )
    op.create_index("ix_payouts_creator", "payouts", ["creator_id", "requested_at"])
    op.create_index("ix_payouts_newest", "payouts", ["requested_at", "id"])
    op.create_index("ix_payouts_run", "payouts", ["run_id", "status", "id"])
    op.create_index("ix_payouts_status", "payouts", ["status", "updated_at"])
    op.create_index(
        "uq_payouts_day",
        "payouts",
        ["payout_date", "creator_id", "currency"],
        unique=True,
        **_where("payout_date IS NOT NULL"),
    )
    op.create_table(
        "statements",
        sa.Column("id", sa.String(100), nullable=False),
        sa.Column("creator_id", sa.String(64), nullable=False),
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("pdf_path", sa.String(200), nullable=False),
        sa.Column("made_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_statements"),
        _creator("statements"),
        sa.UniqueConstraint("creator_id", "month", name="uq_statements_creator_id_month"),
    )
    op.create_table(
        "dirty_days",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("mark", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("day", "mark", name="pk_dirty_days"),
    )
    op.create_table(
        "payout_attempts",
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("payout_id", sa.String(240), nullable=False),
        sa.Column("leg", sa.String(10), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column("first_sent_at", _TIME, nullable=False),
        sa.Column("outcome", sa.String(20), nullable=False),
        sa.Column("code", sa.String(100)),
        sa.Column("message", sa.Text()),
        sa.Column("object_id", sa.String(64)),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_payout_attempts"),
        _check("ck_payout_attempts_leg", "leg IN ('transfer', 'bank')"),
        _check("ck_payout_attempts_n_positive", "n > 0"),
        _check(
            "ck_payout_attempts_outcome", "outcome IN ('sending', 'unknown', 'landed', 'refused')"
        ),
        sa.ForeignKeyConstraint(
            ["payout_id"], ["payouts.id"], name="fk_payout_attempts_payout_id_payouts"
        ),
        sa.UniqueConstraint("payout_id", "leg", "n", name="uq_payout_attempts_payout_id_leg_n"),
    )
    connection = op.get_bind()
    guards = Path(__file__).with_name(f"0001_guards.{connection.dialect.name}.sql")
    for statement in guards.read_text().split("\n\n"):
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    """Drop them, with all that they hold."""
    for view in ("monthly_earnings", "lifetime_earnings", "platform_days"):
        op.execute(f"DROP VIEW {view}")
    for table in reversed(_TABLES):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"DROP FUNCTION {', '.join(_FUNCTIONS)}")
