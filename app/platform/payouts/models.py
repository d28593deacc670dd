"""Payouts and the attempts to pay them. Amounts are in minor units, times in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.db import Base
from app.platform.ledger.models import CURRENCY_CHECK
from app.switchyard.db import partial_index

MAX_ID_LENGTH = 240
"""Stripe's idempotency keys have 255 characters; this leaves room for the attempt's number."""


class PayoutStatus(StrEnum):
    """A payout's status: of its transfer to the creator's Stripe account, then of its bank leg."""

    REQUESTED = "requested"
    """The money is set aside, but nothing has been sent."""
    SENDING = "sending"
    """An attempt at the transfer is recorded; its outcome is not known yet."""
    TRANSFERRED = "transferred"
    """The money is on the creator's Stripe account, but not yet on its way to the bank."""
    PAYING = "paying"
    """An attempt at the bank payout is recorded; its outcome is not known yet."""
    IN_TRANSIT = "in_transit"
    """Stripe has sent it to the bank."""
    PAID = "paid"
    """The money is at the bank, as far as Stripe knows. A bank can still return it."""
    FAILED = "failed"
    """The transfer was refused; the money is back in the creator's balance."""
    BANK_FAILED = "bank_failed"
    """The bank payout was refused or returned; the money is on the creator's Stripe account."""
    REVERSED = "reversed"
    """The whole transfer was reversed before a bank payout; the creator's balance has the money."""


_S = PayoutStatus
MOVES: Mapping[PayoutStatus, frozenset[PayoutStatus]] = {
    _S.REQUESTED: frozenset({_S.SENDING}),
    # Paid at once where Stripe's own schedule pays the bank; requested again where the platform's
    # balance did not cover it.
    _S.SENDING: frozenset({_S.TRANSFERRED, _S.PAID, _S.FAILED, _S.REQUESTED}),
    _S.TRANSFERRED: frozenset({_S.PAYING, _S.REVERSED}),
    _S.PAYING: frozenset({_S.IN_TRANSIT, _S.PAID, _S.BANK_FAILED}),
    _S.IN_TRANSIT: frozenset({_S.PAID, _S.BANK_FAILED}),
    _S.PAID: frozenset({_S.BANK_FAILED}),
    _S.FAILED: frozenset({_S.REQUESTED}),
    _S.BANK_FAILED: frozenset({_S.TRANSFERRED, _S.REVERSED}),
    _S.REVERSED: frozenset(),
}
"""The legal moves. failed → requested and bank_failed → transferred are retries."""
SETTLED = (_S.PAID, _S.FAILED, _S.BANK_FAILED, _S.REVERSED)
"""The statuses in which a payout has a `settled_at`."""


class Method(StrEnum):
    """The speed of a bank payout. Stripe charges for instant, and does not offer it everywhere."""

    STANDARD = "standard"
    INSTANT = "instant"


class LegName(StrEnum):
    """The two legs of a payout, which are attempted and fail independently."""

    TRANSFER = "transfer"
    """From the platform's balance to the creator's Stripe account."""
    BANK = "bank"
    """From there to the creator's bank."""


class AttemptOutcome(StrEnum):
    """The outcome of an attempt."""

    SENDING = "sending"
    UNKNOWN = "unknown"
    """It was sent, but no answer showed its outcome. This is never treated as a failure."""
    LANDED = "landed"
    """Stripe has created the object."""
    REFUSED = "refused"
    """It had no effect and never will."""


def _one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    allowed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({allowed})", name=column)


class Payout(Base):
    """Money on its way to a creator. Triggers in the migrations refuse to delete it, or to change
    its creator, amount or destination."""

    __tablename__ = "payouts"

    id: Mapped[str] = mapped_column(String(MAX_ID_LENGTH), primary_key=True)
    creator_id: Mapped[str] = mapped_column(ForeignKey("creators.id"))
    currency: Mapped[str] = mapped_column(String(3))
    amount: Mapped[int] = mapped_column(BigInteger)
    destination: Mapped[str] = mapped_column(String(64))
    """The Stripe account."""
    status: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str | None] = mapped_column(String(100))
    """Stripe's error code, where it failed."""
    method: Mapped[str] = mapped_column(String(10), default=Method.STANDARD)
    payout_date: Mapped[date | None]
    """The pay day it belongs to, or None for a manual payout."""
    run_id: Mapped[str | None] = mapped_column(String(32))
    """The last run of many payouts that took charge of it."""
    transfer_id: Mapped[str | None] = mapped_column(String(64), unique=True)
    bank_payout_id: Mapped[str | None] = mapped_column(String(64), unique=True)
    """The latest bank payout that Stripe created."""
    requested_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    """When its status last changed, or another run took charge of it."""
    settled_at: Mapped[datetime | None]
    """When it was paid, failed or was reversed. None while it is under way."""

    __table_args__ = (
        CheckConstraint("amount > 0", name="amount_positive"),
        CheckConstraint(CURRENCY_CHECK, name="currency"),
        _one_of("status", PayoutStatus),
        _one_of("method", Method),
        CheckConstraint(
            "transfer_id IS NOT NULL OR status IN ('requested', 'sending', 'failed')",
            name="sent_has_transfer",
        ),
        CheckConstraint(
            "(settled_at IS NOT NULL) = (status IN ('paid', 'failed', 'bank_failed', 'reversed'))",
            name="settled_has_time",
        ),
        partial_index(
            "uq_payouts_day",
            "payout_date",
            "creator_id",
            "currency",
            where="payout_date IS NOT NULL",
            unique=True,
        ),
        Index("ix_payouts_newest", "requested_at", "id"),
        Index("ix_payouts_run", "run_id", "status", "id"),
        Index("ix_payouts_creator", "creator_id", "requested_at"),
        Index("ix_payouts_status", "status", "updated_at"),
    )


class PayoutAttempt(Base):
    """An attempt, with one idempotency key. It is recorded before anything is sent."""

    __tablename__ = "payout_attempts"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    payout_id: Mapped[str] = mapped_column(ForeignKey("payouts.id"))
    leg: Mapped[str] = mapped_column(String(10))
    n: Mapped[int]
    """The number of the attempt at its leg, from 1."""
    params: Mapped[str] = mapped_column(Text)
    """Canonical JSON, since a resend must carry exactly these parameters."""
    first_sent_at: Mapped[datetime]
    """Never later than the first send. The key's age is counted from this time."""
    outcome: Mapped[str] = mapped_column(String(20))
    code: Mapped[str | None] = mapped_column(String(100))
    message: Mapped[str | None] = mapped_column(Text)
    object_id: Mapped[str | None] = mapped_column(String(64))
    """The id of Stripe's transfer or payout, where it landed."""
    updated_at: Mapped[datetime]

    __table_args__ = (
        UniqueConstraint("payout_id", "leg", "n"),
        CheckConstraint("n > 0", name="n_positive"),
        _one_of("outcome", AttemptOutcome),
        _one_of("leg", LegName),
    )
