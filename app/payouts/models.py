"""Payouts and the attempts to pay them. Amounts are minor units, times UTC."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from enum import StrEnum
from typing import cast

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.ledger.models import CURRENCY_CHECK

MAX_ID_LENGTH = 240
"""Leaves room in Stripe's 255 characters of idempotency key for the attempt's number."""


class PayoutStatus(StrEnum):
    """Where a payout stands."""

    REQUESTED = "requested"
    """The money is set aside; nothing was sent."""
    SENDING = "sending"
    """An attempt is on record; its outcome is not known yet."""
    PAID = "paid"
    FAILED = "failed"
    """Refused for a reason; the money is the creator's again."""


MOVES: Mapping[PayoutStatus, frozenset[PayoutStatus]] = {
    PayoutStatus.REQUESTED: frozenset({PayoutStatus.SENDING}),
    PayoutStatus.SENDING: frozenset({PayoutStatus.PAID, PayoutStatus.FAILED}),
    PayoutStatus.PAID: frozenset(),
    PayoutStatus.FAILED: frozenset({PayoutStatus.REQUESTED}),
}
"""The legal moves; failed → requested is a new try."""


class AttemptOutcome(StrEnum):
    """What came of an attempt."""

    SENDING = "sending"
    UNKNOWN = "unknown"
    """Sent, and no answer that says what became of it: never taken for a failure."""
    PAID = "paid"
    REFUSED = "refused"
    """It had no effect and never will."""


def _one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    allowed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({allowed})", name=column)


class Payout(Base):
    """Money on its way to one creator; amount and destination are fixed when it is requested."""

    __tablename__ = "payouts"

    id: Mapped[str] = mapped_column(String(MAX_ID_LENGTH), primary_key=True)
    creator_id: Mapped[str] = mapped_column(ForeignKey("creators.id"))
    currency: Mapped[str] = mapped_column(String(3))
    amount: Mapped[int] = mapped_column(BigInteger)
    destination: Mapped[str] = mapped_column(String(64))
    """The Stripe account."""
    status: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str | None] = mapped_column(String(100))
    """Stripe's code, where it failed."""
    payout_date: Mapped[date | None]
    """The pay day it belongs to; None where it was asked for by hand."""
    transfer_id: Mapped[str | None] = mapped_column(String(64), unique=True)
    requested_at: Mapped[datetime]
    settled_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("amount > 0", name="amount_positive"),
        CheckConstraint(CURRENCY_CHECK, name="currency"),
        _one_of("status", PayoutStatus),
        CheckConstraint(
            f"status <> '{PayoutStatus.PAID}'"
            " OR (transfer_id IS NOT NULL AND settled_at IS NOT NULL)",
            name="paid_has_transfer",
        ),
        Index(
            "uq_payouts_day",
            "payout_date",
            "creator_id",
            "currency",
            unique=True,
            sqlite_where=text("payout_date IS NOT NULL"),
            postgresql_where=text("payout_date IS NOT NULL"),
        ),
        Index("ix_payouts_page", "payout_date", "id"),
        Index("ix_payouts_creator", "creator_id", "requested_at"),
        Index("ix_payouts_status", "status", "settled_at"),
    )


class PayoutAttempt(Base):
    """One idempotency key's worth of trying; on record before anything is sent."""

    __tablename__ = "payout_attempts"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    payout_id: Mapped[str] = mapped_column(ForeignKey("payouts.id"))
    n: Mapped[int]
    params: Mapped[str] = mapped_column(Text)
    """Canonical JSON: a resend must carry exactly these."""
    first_sent_at: Mapped[datetime]
    """Not later than the first send: the key's age is counted from it."""
    outcome: Mapped[str] = mapped_column(String(20))
    code: Mapped[str | None] = mapped_column(String(100))
    message: Mapped[str | None] = mapped_column(Text)
    transfer_id: Mapped[str | None] = mapped_column(String(64))
    updated_at: Mapped[datetime]

    __table_args__ = (
        UniqueConstraint("payout_id", "n"),
        CheckConstraint("n > 0", name="n_positive"),
        _one_of("outcome", AttemptOutcome),
    )


payouts = cast(Table, Payout.__table__)
attempts = cast(Table, PayoutAttempt.__table__)
