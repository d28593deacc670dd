"""Payouts and the attempts to pay them. Amounts are minor units, times UTC."""

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
"""Leaves room in Stripe's 255 characters of idempotency key for the attempt's number."""


class PayoutStatus(StrEnum):
    """Where a payout stands: first its transfer to the creator's Stripe account, then its way from
    there to the bank."""

    REQUESTED = "requested"
    """The money is set aside; nothing was sent."""
    SENDING = "sending"
    """A transfer's attempt is on record; its outcome is not known yet."""
    TRANSFERRED = "transferred"
    """On the creator's Stripe account, not yet on its way to the bank."""
    PAYING = "paying"
    """A bank payout's attempt is on record; its outcome is not known yet."""
    IN_TRANSIT = "in_transit"
    """Stripe has sent it to the bank."""
    PAID = "paid"
    """At the bank, as far as Stripe knows: a bank can still send it back."""
    FAILED = "failed"
    """The transfer was refused for a reason; the money is the creator's again."""
    BANK_FAILED = "bank_failed"
    """The bank payout was refused or came back: the money is on the creator's Stripe account."""
    REVERSED = "reversed"
    """The whole transfer was reversed before it left for the bank; the money is the creator's."""


_S = PayoutStatus
MOVES: Mapping[PayoutStatus, frozenset[PayoutStatus]] = {
    _S.REQUESTED: frozenset({_S.SENDING}),
    # Paid at once where Stripe's own schedule brings it to the bank; requested again where the
    # platform's balance did not cover it.
    _S.SENDING: frozenset({_S.TRANSFERRED, _S.PAID, _S.FAILED, _S.REQUESTED}),
    _S.TRANSFERRED: frozenset({_S.PAYING, _S.REVERSED}),
    _S.PAYING: frozenset({_S.IN_TRANSIT, _S.PAID, _S.BANK_FAILED}),
    _S.IN_TRANSIT: frozenset({_S.PAID, _S.BANK_FAILED}),
    _S.PAID: frozenset({_S.BANK_FAILED}),
    _S.FAILED: frozenset({_S.REQUESTED}),
    _S.BANK_FAILED: frozenset({_S.TRANSFERRED, _S.REVERSED}),
    _S.REVERSED: frozenset(),
}
"""The legal moves; failed → requested and bank_failed → transferred are new tries."""
SETTLED = (_S.PAID, _S.FAILED, _S.BANK_FAILED, _S.REVERSED)
"""Of these a payout's `settled_at` says since when."""


class Method(StrEnum):
    """How fast a bank payout goes; instant is Stripe's own, for a fee and not everywhere."""

    STANDARD = "standard"
    INSTANT = "instant"


class LegName(StrEnum):
    """The two halves of a payout's way, each tried and failing for itself."""

    TRANSFER = "transfer"
    """From the platform's balance to the creator's Stripe account."""
    BANK = "bank"
    """From there to the creator's bank."""


class AttemptOutcome(StrEnum):
    """What came of an attempt."""

    SENDING = "sending"
    UNKNOWN = "unknown"
    """Sent, and no answer that says what became of it: never taken for a failure."""
    LANDED = "landed"
    """Stripe has made the object."""
    REFUSED = "refused"
    """It had no effect and never will."""


def _one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    allowed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({allowed})", name=column)


class Payout(Base):
    """Money on its way to one creator. Its creator, amount and destination are fixed when it is
    requested, and it is never deleted: the migrations' triggers refuse it."""

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
    method: Mapped[str] = mapped_column(String(10), default=Method.STANDARD)
    payout_date: Mapped[date | None]
    """The pay day it belongs to; None where it was asked for by hand."""
    run_id: Mapped[str | None] = mapped_column(String(32))
    """The run that last took charge of it, where a run pays many."""
    transfer_id: Mapped[str | None] = mapped_column(String(64), unique=True)
    bank_payout_id: Mapped[str | None] = mapped_column(String(64), unique=True)
    """The latest one that Stripe made."""
    requested_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    """When it last moved or changed hands."""
    settled_at: Mapped[datetime | None]
    """When it was paid, failed or reversed; None while it is on its way."""

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
        Index("ix_payouts_page", "payout_date", "id"),
        Index("ix_payouts_run", "run_id", "status", "id"),
        Index("ix_payouts_creator", "creator_id", "requested_at"),
        Index("ix_payouts_status", "status", "updated_at"),
    )


class PayoutAttempt(Base):
    """One idempotency key's worth of trying; on record before anything is sent."""

    __tablename__ = "payout_attempts"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    payout_id: Mapped[str] = mapped_column(ForeignKey("payouts.id"))
    leg: Mapped[str] = mapped_column(String(10))
    n: Mapped[int]
    """Which try of its leg, from 1."""
    params: Mapped[str] = mapped_column(Text)
    """Canonical JSON: a resend must carry exactly these."""
    first_sent_at: Mapped[datetime]
    """Not later than the first send: the key's age is counted from it."""
    outcome: Mapped[str] = mapped_column(String(20))
    code: Mapped[str | None] = mapped_column(String(100))
    message: Mapped[str | None] = mapped_column(Text)
    object_id: Mapped[str | None] = mapped_column(String(64))
    """Stripe's transfer or payout, where it landed."""
    updated_at: Mapped[datetime]

    __table_args__ = (
        UniqueConstraint("payout_id", "leg", "n"),
        CheckConstraint("n > 0", name="n_positive"),
        _one_of("outcome", AttemptOutcome),
        _one_of("leg", LegName),
    )
