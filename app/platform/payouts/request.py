"""An order to pay one payout: an existing one, or a new manual one where the id is unknown."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.platform import currencies
from app.platform.earnings.models import Creator
from app.platform.earnings.posting import post_earnings
from app.platform.ledger.postings import EntryKind, post
from app.platform.payouts.eligibility import gate, payable
from app.platform.payouts.legs import TRANSFER, booked
from app.platform.payouts.models import MAX_ID_LENGTH, Method, Payout, PayoutStatus
from app.switchyard.errors import BadInput
from app.switchyard.job import JobPayload


class PayoutRefused(BadInput, status=422, title="Payout refused"):
    """The order does not fit its payout, creator or balance. Nothing was written."""


class SinglePayout(JobPayload):
    """One payout; `amount` in minor units of `currency` (default: the creator's own)."""

    # It becomes Stripe's idempotency key, which takes printable ASCII only.
    payout_id: str = Field(pattern=r"^[A-Za-z0-9_.:-]+$", max_length=MAX_ID_LENGTH)
    creator_id: str = Field(min_length=1, max_length=64)
    amount: int = Field(strict=True, gt=0, le=currencies.MAX_AMOUNT)
    stripe_account_id: str = Field(min_length=1, max_length=64)
    currency: str | None = Field(default=None, pattern=r"^[a-z]{3}$")
    method: Method = Method.STANDARD


def demanded(tx: Session, order: SinglePayout, now: datetime) -> Payout:
    """The payout that the order names, locked. An unknown one is requested first.

    Raises PayoutRefused.
    """
    payout = tx.scalar(select(Payout).where(Payout.id == order.payout_id).with_for_update())
    if payout is None:
        return request(tx, order, now)
    for name, wanted, given in (
        ("creator", payout.creator_id, order.creator_id),
        ("amount", payout.amount, order.amount),
        ("destination", payout.destination, order.stripe_account_id),
        ("currency", payout.currency, order.currency or payout.currency),
    ):
        if wanted != given:
            raise PayoutRefused(f"payout {payout.id} has {name} {wanted}, not {given}")
    return payout


def request(tx: Session, order: SinglePayout, now: datetime) -> Payout:
    """Request a payout and set its money aside. Raises PayoutRefused."""
    what, account = f"payout {order.payout_id}", order.stripe_account_id
    # Locked, so that two payouts requested at once cannot spend the same balance.
    locked = select(Creator, gate()).where(Creator.id == order.creator_id).with_for_update()
    row = tx.execute(locked).one_or_none()
    if row is None:
        raise PayoutRefused(f"{what}: no creator {order.creator_id!r}")
    creator, left_out = row
    if left_out is not None:
        raise PayoutRefused(f"{what}: creator {creator.id} is left out: {left_out}")
    if creator.stripe_account_id != account:
        raise PayoutRefused(f"{what}: {account!r} is not creator {creator.id}'s account")
    currency = order.currency or creator.currency
    currencies.check(order.amount, currency)
    post_earnings(tx)
    most = payable(tx, creator.id, currency, now)
    if order.amount > most:
        raise PayoutRefused(f"{what}: {order.amount} {currency} wanted but {most} payable now")
    payout = Payout(
        id=order.payout_id,
        creator_id=creator.id,
        currency=currency,
        amount=order.amount,
        destination=account,
        method=order.method,
        status=PayoutStatus.REQUESTED,
        requested_at=now,
        updated_at=now,
    )
    tx.add(payout)
    tx.flush()
    post(tx, [booked(EntryKind.HOLD, TRANSFER.key(payout, 1), payout, now)])
    return payout
