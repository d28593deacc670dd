"""Creators, their earnings and the daily sums. Amounts are in minor units, days in UTC."""

from __future__ import annotations

from datetime import date, datetime
from enum import StrEnum
from typing import cast

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, Table, false, text
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.db import Base
from app.platform.ledger.models import CURRENCY_CHECK

_ID_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."


class EarningKind(StrEnum):
    """Whether money came in or went back to the fan."""

    EARNING = "earning"
    REFUND = "refund"
    DISPUTE = "dispute"
    """The fan's bank took the money back for the time being (a chargeback)."""
    DISPUTE_WON = "dispute_won"
    """The bank returned the money of a disputed sale."""


class Creator(Base):
    """Someone the platform pays, with the last known state of their Stripe account."""

    __tablename__ = "creators"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    email: Mapped[str] = mapped_column(String(254))
    country: Mapped[str] = mapped_column(String(2))
    currency: Mapped[str] = mapped_column(String(3))
    stripe_account_id: Mapped[str | None] = mapped_column(String(64), unique=True)
    payouts_enabled: Mapped[bool]
    transfers_active: Mapped[bool]
    disabled_reason: Mapped[str | None] = mapped_column(String(100))
    manual_payouts: Mapped[bool] = mapped_column(default=True)
    """Whether the platform sends the account's money to the bank (Stripe's
    `settings.payouts.schedule.interval` is `manual`). Otherwise Stripe does, on a schedule."""
    created_at: Mapped[datetime]

    __table_args__ = (
        # The id becomes part of Stripe's idempotency keys, which are printable ASCII.
        CheckConstraint(f"length(id) > 0 AND ltrim(id, '{_ID_LETTERS}') = ''", name="id_plain"),
        CheckConstraint(CURRENCY_CHECK, name="currency"),
    )


class Earning(Base):
    """A sale, refund, dispute or won dispute. The creator's share is `gross - fee`."""

    __tablename__ = "earnings"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    creator_id: Mapped[str] = mapped_column(ForeignKey("creators.id"))
    source: Mapped[str] = mapped_column(String(40))
    """tips, subscriptions, calls, media, referrals. Plain text: a new one needs no migration."""
    kind: Mapped[str] = mapped_column(String(20))
    currency: Mapped[str] = mapped_column(String(3))
    gross: Mapped[int] = mapped_column(BigInteger)
    fee: Mapped[int] = mapped_column(BigInteger)
    refund_of: Mapped[str | None] = mapped_column(ForeignKey("earnings.id"))
    """The sale that a refund or dispute is about."""
    occurred_at: Mapped[datetime]
    posted: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether it is in the ledger; see posting. From then on a trigger in the migrations refuses
    changes, since the entries that were posted from it never change."""

    __table_args__ = (
        CheckConstraint("gross > 0 AND fee >= 0 AND fee <= gross", name="amounts"),
        CheckConstraint(CURRENCY_CHECK, name="currency"),
        CheckConstraint(
            f"(kind = '{EarningKind.EARNING}' AND refund_of IS NULL)"
            f" OR (kind IN ('{EarningKind.REFUND}', '{EarningKind.DISPUTE}',"
            f" '{EarningKind.DISPUTE_WON}') AND refund_of IS NOT NULL)",
            name="kind",
        ),
        Index("ix_earnings_creator", "creator_id", "occurred_at"),
        Index("ix_earnings_time", "occurred_at"),
        Index("ix_earnings_refund_of", "refund_of"),
        Index(
            "ix_earnings_unposted",
            "id",
            sqlite_where=text("posted = 0"),
            postgresql_where=text("NOT posted"),
        ),
    )


class DailyEarnings(Base):
    """A creator's day: gross - refunds - fees = net, the change of the creator's balance.

    The earnings have the foreign key to the creator. A second check of each row here would cost as
    much as half of the rollup.
    """

    __tablename__ = "daily_earnings"

    day: Mapped[date] = mapped_column(primary_key=True)
    creator_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    currency: Mapped[str] = mapped_column(String(3), primary_key=True)
    source: Mapped[str] = mapped_column(String(40), primary_key=True)
    gross: Mapped[int] = mapped_column(BigInteger)
    """The gross of the sales."""
    refunds: Mapped[int] = mapped_column(BigInteger)
    """The gross that refunds and disputes took back, less what won disputes returned."""
    fees: Mapped[int] = mapped_column(BigInteger)
    """The platform's fees, less those given back."""
    net: Mapped[int] = mapped_column(BigInteger)
    count: Mapped[int] = mapped_column(BigInteger)
    """The number of sales."""

    # SQLite stores the rows in the primary key's index.
    __table_args__ = (
        Index("ix_daily_earnings_creator", "creator_id", "day"),
        {"sqlite_with_rowid": False},
    )


class DirtyDay(Base):
    """A day whose earnings changed since it was rolled up.

    A trigger in the migrations marks it, in the transaction that changes the earnings. On Postgres
    each transaction has its own mark: writers would wait for each other at a shared one, and a
    rollup could clear it without seeing all the earnings that it stands for.
    """

    __tablename__ = "dirty_days"

    day: Mapped[date] = mapped_column(primary_key=True)
    mark: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)


earnings = cast(Table, Earning.__table__)
daily = cast(Table, DailyEarnings.__table__)
dirty_days = cast(Table, DirtyDay.__table__)
