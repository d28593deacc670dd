"""Bank payouts beside transfers, disputes, places at once, and a shared pace

Revision: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from app.platform.earnings import guards as earning_guards
from app.platform.payouts import guards

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NOW_STATUS = (
    "status IN ('requested', 'sending', 'transferred', 'paying', 'in_transit', 'paid', 'failed',"
    " 'bank_failed', 'reversed')"
)
_NOW_KIND = (
    "(kind = 'earning' AND refund_of IS NULL)"
    " OR (kind IN ('refund', 'dispute', 'dispute_won') AND refund_of IS NOT NULL)"
)
_OLD_KIND = (
    "(kind = 'earning' AND refund_of IS NULL) OR (kind = 'refund' AND refund_of IS NOT NULL)"
)
_IN_LEDGER = (
    "EXISTS (SELECT 1 FROM entries WHERE entries.ref = earnings.id"
    " AND entries.kind IN ('earning', 'fee', 'refund', 'fee_refund'))"
)
_OLD_PAID = "status <> 'paid' OR (transfer_id IS NOT NULL AND settled_at IS NOT NULL)"


def upgrade() -> None:
    """Add them; what was paid by transfer alone stays paid."""
    op.create_table(
        "paces",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("next_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_paces")),
    )
    op.add_column("runs", sa.Column("slot", sa.Integer(), nullable=True))
    op.create_index(
        "uq_runs_slot",
        "runs",
        ["job", "slot"],
        unique=True,
        sqlite_where=sa.text("slot IS NOT NULL"),
        postgresql_where=sa.text("slot IS NOT NULL"),
    )
    op.add_column(
        "creators",
        sa.Column("manual_payouts", sa.Boolean(), nullable=False, server_default=sa.true()),
    )
    with op.batch_alter_table("creators") as table:
        table.alter_column("manual_payouts", server_default=None)
    with op.batch_alter_table("earnings") as table:
        table.alter_column("kind", type_=sa.String(length=20))
        table.drop_constraint(op.f("ck_earnings_kind"), type_="check")
        table.create_check_constraint(op.f("ck_earnings_kind"), _NOW_KIND)
        table.add_column(
            sa.Column("posted", sa.Boolean(), nullable=False, server_default=sa.false())
        )
    op.execute(f"UPDATE earnings SET posted = true WHERE {_IN_LEDGER}")
    op.create_index(
        "ix_earnings_unposted",
        "earnings",
        ["id"],
        unique=False,
        sqlite_where=sa.text("posted = 0"),
        postgresql_where=sa.text("NOT posted"),
    )
    _upgrade_payouts()
    _upgrade_attempts()
    for module in (earning_guards, guards):
        for statement in module.INSTALL[op.get_bind().dialect.name]:
            op.execute(statement)


def _upgrade_payouts() -> None:
    with op.batch_alter_table("payouts") as table:
        table.add_column(
            sa.Column("method", sa.String(length=10), nullable=False, server_default="standard")
        )
        table.add_column(sa.Column("run_id", sa.String(length=32), nullable=True))
        table.add_column(sa.Column("bank_payout_id", sa.String(length=64), nullable=True))
        table.add_column(sa.Column("updated_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE payouts SET updated_at = coalesce(settled_at, requested_at)")
    op.drop_index("ix_payouts_status", "payouts")
    with op.batch_alter_table("payouts") as table:
        table.alter_column("updated_at", nullable=False)
        table.alter_column("method", server_default=None)
        table.create_unique_constraint(op.f("uq_payouts_bank_payout_id"), ["bank_payout_id"])
        table.drop_constraint(op.f("ck_payouts_status"), type_="check")
        table.create_check_constraint(op.f("ck_payouts_status"), _NOW_STATUS)
        table.drop_constraint(op.f("ck_payouts_paid_has_transfer"), type_="check")
        table.create_check_constraint(
            op.f("ck_payouts_sent_has_transfer"),
            "transfer_id IS NOT NULL OR status IN ('requested', 'sending', 'failed')",
        )
        table.create_check_constraint(
            op.f("ck_payouts_settled_has_time"),
            "(settled_at IS NOT NULL) = (status IN ('paid', 'failed', 'bank_failed', 'reversed'))",
        )
        table.create_check_constraint(
            op.f("ck_payouts_method"), "method IN ('standard', 'instant')"
        )
    op.create_index("ix_payouts_status", "payouts", ["status", "updated_at"], unique=False)
    op.create_index("ix_payouts_run", "payouts", ["run_id", "status", "id"], unique=False)


def _upgrade_attempts() -> None:
    with op.batch_alter_table("payout_attempts") as table:
        table.add_column(
            sa.Column("leg", sa.String(length=10), nullable=False, server_default="transfer")
        )
        table.alter_column("transfer_id", new_column_name="object_id")
        table.drop_constraint(op.f("uq_payout_attempts_payout_id_n"), type_="unique")
        table.drop_constraint(op.f("ck_payout_attempts_outcome"), type_="check")
    op.execute("UPDATE payout_attempts SET outcome = 'landed' WHERE outcome = 'paid'")
    with op.batch_alter_table("payout_attempts") as table:
        table.alter_column("leg", server_default=None)
        table.create_unique_constraint(
            op.f("uq_payout_attempts_payout_id_leg_n"), ["payout_id", "leg", "n"]
        )
        table.create_check_constraint(
            op.f("ck_payout_attempts_outcome"),
            "outcome IN ('sending', 'unknown', 'landed', 'refused')",
        )
        table.create_check_constraint(op.f("ck_payout_attempts_leg"), "leg IN ('transfer', 'bank')")


def downgrade() -> None:
    """Undo it. A payout on its way to a bank counts as paid, as before; the rest must be over."""
    for module in (earning_guards, guards):
        for statement in module.REMOVE[op.get_bind().dialect.name]:
            op.execute(statement)
    op.execute("DELETE FROM payout_attempts WHERE leg = 'bank'")
    with op.batch_alter_table("payout_attempts") as table:
        table.drop_constraint(op.f("ck_payout_attempts_outcome"), type_="check")
        table.drop_constraint(op.f("ck_payout_attempts_leg"), type_="check")
        table.drop_constraint(op.f("uq_payout_attempts_payout_id_leg_n"), type_="unique")
    op.execute("UPDATE payout_attempts SET outcome = 'paid' WHERE outcome = 'landed'")
    with op.batch_alter_table("payout_attempts") as table:
        table.drop_column("leg")
        table.alter_column("object_id", new_column_name="transfer_id")
        table.create_unique_constraint(op.f("uq_payout_attempts_payout_id_n"), ["payout_id", "n"])
        table.create_check_constraint(
            op.f("ck_payout_attempts_outcome"),
            "outcome IN ('sending', 'unknown', 'paid', 'refused')",
        )
    op.drop_index("ix_payouts_run", "payouts")
    op.drop_index("ix_payouts_status", "payouts")
    with op.batch_alter_table("payouts") as table:
        for name in ("status", "sent_has_transfer", "settled_has_time", "method"):
            table.drop_constraint(op.f(f"ck_payouts_{name}"), type_="check")
        table.drop_constraint(op.f("uq_payouts_bank_payout_id"), type_="unique")
    op.execute(
        "UPDATE payouts SET status = 'paid', settled_at = coalesce(settled_at, updated_at)"
        " WHERE status IN ('transferred', 'paying', 'in_transit', 'bank_failed')"
    )
    op.execute("UPDATE payouts SET status = 'failed' WHERE status = 'reversed'")
    with op.batch_alter_table("payouts") as table:
        for column in ("method", "run_id", "bank_payout_id", "updated_at"):
            table.drop_column(column)
        table.create_check_constraint(
            op.f("ck_payouts_status"), "status IN ('requested', 'sending', 'paid', 'failed')"
        )
        table.create_check_constraint(op.f("ck_payouts_paid_has_transfer"), _OLD_PAID)
    op.create_index("ix_payouts_status", "payouts", ["status", "settled_at"], unique=False)
    op.drop_index("ix_earnings_unposted", "earnings")
    with op.batch_alter_table("earnings") as table:
        table.drop_column("posted")
        table.drop_constraint(op.f("ck_earnings_kind"), type_="check")
        table.create_check_constraint(op.f("ck_earnings_kind"), _OLD_KIND)
        table.alter_column("kind", type_=sa.String(length=10))
    op.drop_column("creators", "manual_payouts")
    op.drop_index("uq_runs_slot", "runs")
    op.drop_column("runs", "slot")
    op.drop_table("paces")
