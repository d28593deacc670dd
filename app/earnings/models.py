"""Creators, as far as paying them needs, and what they earned. Amounts are minor units."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.ledger.models import CURRENCY_CHECK

_ID_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."


class EarningKind(StrEnum):
    """Whether money came in or went back to the fan."""

    EARNING = "earning"
    REFUND = "refund"


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
    created_at: Mapped[datetime]

    __table_args__ = (
        # The id becomes part of Stripe's idempotency keys, which take printable ASCII only.
        CheckConstraint(f"length(id) > 0 AND ltrim(id, '{_ID_LETTERS}') = ''", name="id_plain"),
        CheckConstraint(CURRENCY_CHECK, name="currency"),
    )


class Earning(Base):
    """One sale, or a refund of (part of) one; the creator's share is `gross - fee`."""

    __tablename__ = "earnings"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    creator_id: Mapped[str] = mapped_column(ForeignKey("creators.id"))
    source: Mapped[str] = mapped_column(String(40))
    """tips, subscriptions, calls, media, referrals; plain text, so a new one needs no migration."""
    kind: Mapped[str] = mapped_column(String(10))
    currency: Mapped[str] = mapped_column(String(3))
    gross: Mapped[int] = mapped_column(BigInteger)
    fee: Mapped[int] = mapped_column(BigInteger)
    refund_of: Mapped[str | None] = mapped_column(ForeignKey("earnings.id"))
    occurred_at: Mapped[datetime]

    __table_args__ = (
        CheckConstraint("gross > 0 AND fee >= 0 AND fee <= gross", name="amounts"),
        CheckConstraint(CURRENCY_CHECK, name="currency"),
        CheckConstraint(
            f"(kind = '{EarningKind.EARNING}' AND refund_of IS NULL)"
            f" OR (kind = '{EarningKind.REFUND}' AND refund_of IS NOT NULL)",
            name="kind",
        ),
        Index("ix_earnings_creator", "creator_id", "occurred_at"),
        Index("ix_earnings_time", "occurred_at"),
        Index("ix_earnings_refund_of", "refund_of"),
    )
