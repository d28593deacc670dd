"""The ledger of runs, the stages and the money

Revision: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from app.platform.ledger import guards

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The ledger of runs, the stages and the money."""
    op.create_table(
        "creators",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("country", sa.String(length=2), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("stripe_account_id", sa.String(length=64), nullable=True),
        sa.Column("payouts_enabled", sa.Boolean(), nullable=False),
        sa.Column("transfers_active", sa.Boolean(), nullable=False),
        sa.Column("disabled_reason", sa.String(length=100), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "length(currency) = 3 AND ltrim(currency, 'abcdefghijklmnopqrstuvwxyz') = ''",
            name=op.f("ck_creators_currency"),
        ),
        sa.CheckConstraint(
            "length(id) > 0 AND ltrim(id, 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
            "0123456789_-.') = ''",
            name=op.f("ck_creators_id_plain"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_creators")),
        sa.UniqueConstraint("stripe_account_id", name=op.f("uq_creators_stripe_account_id")),
    )
    op.create_table(
        "entries",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("ref", sa.String(length=255), nullable=False),
        sa.Column(
            "debit",
            sa.String(length=280).with_variant(sa.String(length=280, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column(
            "credit",
            sa.String(length=280).with_variant(sa.String(length=280, collation="C"), "postgresql"),
            nullable=False,
        ),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "length(currency) = 3 AND ltrim(currency, 'abcdefghijklmnopqrstuvwxyz') = ''",
            name=op.f("ck_entries_currency"),
        ),
        sa.CheckConstraint(
            "amount > 0 AND amount = CAST(amount AS BIGINT)",
            name=op.f("ck_entries_amount_positive"),
        ),
        sa.CheckConstraint("debit <> credit", name=op.f("ck_entries_two_accounts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_entries")),
        sa.UniqueConstraint(
            "kind",
            "ref",
            "debit",
            "credit",
            "currency",
            name=op.f("uq_entries_kind_ref_debit_credit_currency"),
        ),
    )
    op.create_index("ix_entries_credit", "entries", ["credit", "currency", "amount"], unique=False)
    op.create_index("ix_entries_debit", "entries", ["debit", "currency", "amount"], unique=False)

    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("job", sa.String(length=100), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("backend", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.Column("stage", sa.String(length=20), nullable=False),
        sa.Column("stage_version", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=True),
        sa.Column("sends", sa.Integer(), nullable=False),
        sa.Column("sent_ref", sa.String(length=64), nullable=True),
        sa.Column("move_to", sa.String(length=20), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("parent_id", sa.String(length=32), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("check_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(check_at IS NULL) = (status IN ('succeeded', 'failed', 'cancelled'))",
            name=op.f("ck_runs_open_is_checked"),
        ),
        sa.ForeignKeyConstraint(["parent_id"], ["runs.id"], name=op.f("fk_runs_parent_id_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("job", "key", name=op.f("uq_runs_job_key")),
    )
    op.create_index(
        "ix_runs_children",
        "runs",
        ["parent_id", "check_at"],
        unique=False,
        sqlite_where=sa.text("parent_id IS NOT NULL"),
        postgresql_where=sa.text("parent_id IS NOT NULL"),
    )
    op.create_index(
        "ix_runs_failed",
        "runs",
        ["ended_at", "job", "backend"],
        unique=False,
        sqlite_where=sa.text("status = 'failed'"),
        postgresql_where=sa.text("status = 'failed'"),
    )
    op.create_index(
        "ix_runs_open",
        "runs",
        ["check_at", "job", "backend"],
        unique=False,
        sqlite_where=sa.text("check_at IS NOT NULL"),
        postgresql_where=sa.text("check_at IS NOT NULL"),
    )

    op.create_table(
        "stage_changes",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("job", sa.String(length=100), nullable=False),
        sa.Column("from_stage", sa.String(length=20), nullable=False),
        sa.Column("to_stage", sa.String(length=20), nullable=False),
        sa.Column("percent", sa.Double(), nullable=True),
        sa.Column("by", sa.String(length=100), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "(to_stage = 'ramp') = (percent IS NOT NULL) AND (percent IS NULL OR"
            " (percent >= 0 AND percent <= 100))",
            name=op.f("ck_stage_changes_ramp_has_percent"),
        ),
        sa.CheckConstraint(
            "to_stage IN ('legacy', 'shadow', 'ramp', 'live', 'complete')",
            name=op.f("ck_stage_changes_known_stage"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stage_changes")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_stage_changes_latest", "stage_changes", ["job", "id"], unique=False)

    op.create_table(
        "earnings",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("creator_id", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("gross", sa.BigInteger(), nullable=False),
        sa.Column("fee", sa.BigInteger(), nullable=False),
        sa.Column("refund_of", sa.String(length=64), nullable=True),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "(kind = 'earning' AND refund_of IS NULL)"
            " OR (kind = 'refund' AND refund_of IS NOT NULL)",
            name=op.f("ck_earnings_kind"),
        ),
        sa.CheckConstraint(
            "length(currency) = 3 AND ltrim(currency, 'abcdefghijklmnopqrstuvwxyz') = ''",
            name=op.f("ck_earnings_currency"),
        ),
        sa.CheckConstraint(
            "gross > 0 AND fee >= 0 AND fee <= gross", name=op.f("ck_earnings_amounts")
        ),
        sa.ForeignKeyConstraint(
            ["creator_id"], ["creators.id"], name=op.f("fk_earnings_creator_id_creators")
        ),
        sa.ForeignKeyConstraint(
            ["refund_of"], ["earnings.id"], name=op.f("fk_earnings_refund_of_earnings")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_earnings")),
    )
    op.create_index("ix_earnings_creator", "earnings", ["creator_id", "occurred_at"], unique=False)
    op.create_index("ix_earnings_refund_of", "earnings", ["refund_of"], unique=False)
    op.create_index("ix_earnings_time", "earnings", ["occurred_at"], unique=False)

    op.create_table(
        "payouts",
        sa.Column("id", sa.String(length=240), nullable=False),
        sa.Column("creator_id", sa.String(length=64), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.String(length=100), nullable=True),
        sa.Column("payout_date", sa.Date(), nullable=True),
        sa.Column("transfer_id", sa.String(length=64), nullable=True),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "length(currency) = 3 AND ltrim(currency, 'abcdefghijklmnopqrstuvwxyz') = ''",
            name=op.f("ck_payouts_currency"),
        ),
        sa.CheckConstraint(
            "status <> 'paid' OR (transfer_id IS NOT NULL AND settled_at IS NOT NULL)",
            name=op.f("ck_payouts_paid_has_transfer"),
        ),
        sa.CheckConstraint(
            "status IN ('requested', 'sending', 'paid', 'failed')", name=op.f("ck_payouts_status")
        ),
        sa.CheckConstraint("amount > 0", name=op.f("ck_payouts_amount_positive")),
        sa.ForeignKeyConstraint(
            ["creator_id"], ["creators.id"], name=op.f("fk_payouts_creator_id_creators")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_payouts")),
        sa.UniqueConstraint("transfer_id", name=op.f("uq_payouts_transfer_id")),
    )
    op.create_index("ix_payouts_creator", "payouts", ["creator_id", "requested_at"], unique=False)
    op.create_index("ix_payouts_page", "payouts", ["payout_date", "id"], unique=False)
    op.create_index("ix_payouts_status", "payouts", ["status", "settled_at"], unique=False)
    op.create_index(
        "uq_payouts_day",
        "payouts",
        ["payout_date", "creator_id", "currency"],
        unique=True,
        sqlite_where=sa.text("payout_date IS NOT NULL"),
        postgresql_where=sa.text("payout_date IS NOT NULL"),
    )

    op.create_table(
        "steps",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("backend", sa.String(length=20), nullable=False),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("fk_steps_run_id_runs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "name", name=op.f("pk_steps")),
    )
    op.create_table(
        "payout_attempts",
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("payout_id", sa.String(length=240), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column("first_sent_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.String(length=20), nullable=False),
        sa.Column("code", sa.String(length=100), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("transfer_id", sa.String(length=64), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('sending', 'unknown', 'paid', 'refused')",
            name=op.f("ck_payout_attempts_outcome"),
        ),
        sa.CheckConstraint("n > 0", name=op.f("ck_payout_attempts_n_positive")),
        sa.ForeignKeyConstraint(
            ["payout_id"], ["payouts.id"], name=op.f("fk_payout_attempts_payout_id_payouts")
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_payout_attempts")),
        sa.UniqueConstraint("payout_id", "n", name=op.f("uq_payout_attempts_payout_id_n")),
    )
    for statement in guards.INSTALL[op.get_bind().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    """Undo it, with all that the tables hold."""
    for table in (
        "payout_attempts",
        "steps",
        "payouts",
        "earnings",
        "stage_changes",
        "runs",
        "entries",
        "creators",
    ):
        op.drop_table(table)
    for statement in guards.REMOVE[op.get_bind().dialect.name]:
        op.execute(statement)
