"""Creators, as far as paying them needs, and what they earned. Amounts are minor units."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import cast

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    String,
    Table,
    false,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.db import Base
from app.platform.ledger.models import CURRENCY_CHECK

_ID_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."


class EarningKind(StrEnum):
    """Whether money came in or went back to the fan."""

    EARNING = "earning"
    REFUND = "refund"
    DISPUTE = "dispute"
    """The fan's bank took the money back, for now (a chargeback)."""
    DISPUTE_WON = "dispute_won"
    """The bank gave a disputed sale's money back again."""


class Creator(Base):
    """Someone the platform pays, and what Stripe last said of their account."""

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
    """Whether the platform sends the account's money to the bank; else Stripe does, on its own
    schedule (Stripe's `settings.payouts.schedule.interval` is `manual`)."""
    created_at: Mapped[datetime]

    __table_args__ = (
        # The id becomes part of Stripe's idempotency keys, which take printable ASCII only.
        CheckConstraint(f"length(id) > 0 AND ltrim(id, '{_ID_LETTERS}') = ''", name="id_plain"),
        CheckConstraint(CURRENCY_CHECK, name="currency"),
    )


class Earning(Base):
    """One sale, or what took (part of) one back, or gave it again; the creator's share is `gross -
    fee`."""

    __tablename__ = "earnings"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    creator_id: Mapped[str] = mapped_column(ForeignKey("creators.id"))
    source: Mapped[str] = mapped_column(String(40))
    """tips, subscriptions, calls, media, referrals; plain text, so a new one needs no migration."""
    kind: Mapped[str] = mapped_column(String(20))
    currency: Mapped[str] = mapped_column(String(3))
    gross: Mapped[int] = mapped_column(BigInteger)
    fee: Mapped[int] = mapped_column(BigInteger)
    refund_of: Mapped[str | None] = mapped_column(ForeignKey("earnings.id"))
    """The sale that a refund or dispute is about."""
    occurred_at: Mapped[datetime]
    posted: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether it is in the ledger; see posting. Once it is, the database refuses any change: what
    is held back is reckoned from this, and what is owed from the ledger."""

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


earnings = cast(Table, Earning.__table__)
