"""An order to pay one payout, met by the payout it names or, unknown, by a new manual one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.platform import currencies
from app.platform.earnings.models import Creator
from app.platform.earnings.posting import post_earnings
from app.platform.ledger.postings import EntryKind, post
from app.platform.payouts import eligibility
from app.platform.payouts.booking import booked
from app.platform.payouts.legs import TRANSFER
from app.platform.payouts.models import Method, Payout, PayoutStatus
from app.switchyard.errors import BadInput


class PayoutRefused(BadInput):
    """An order that does not fit its payout, creator or balance; nothing was written."""

    status = 422
    title = "Payout refused"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be paid; `amount` in minor units of `currency` (None: the creator's own)."""

    payout_id: str
    creator_id: str
    amount: int
    destination: str
    currency: str | None = None
    method: Method = Method.STANDARD


def demanded(tx: Session, order: Order, now: datetime) -> Payout:
    """The payout the order names, locked; an unknown one is requested now and its money set aside.

    Raises PayoutRefused.
    """
    payout = tx.scalar(select(Payout).where(Payout.id == order.payout_id).with_for_update())
    if payout is None:
        return request(tx, order, now)
    for name, wanted, given in (
        ("creator", payout.creator_id, order.creator_id),
        ("amount", payout.amount, order.amount),
        ("destination", payout.destination, order.destination),
        ("currency", payout.currency, order.currency or payout.currency),
    ):
        if wanted != given:
            raise PayoutRefused(f"payout {payout.id} has {name} {wanted}, not {given}")
    return payout


def request(tx: Session, order: Order, now: datetime) -> Payout:
    """A new payout, with its money set aside; the creator's row is locked. Raises PayoutRefused."""
    # Locked, so that two payouts requested at once cannot both spend one balance.
    found = tx.execute(
        select(Creator, eligibility.gate()).where(Creator.id == order.creator_id).with_for_update()
    ).one_or_none()
    if found is None:
        raise PayoutRefused(f"payout {order.payout_id}: no creator {order.creator_id!r}")
    creator, left_out = found
    if left_out is not None:
        raise PayoutRefused(
            f"payout {order.payout_id}: creator {creator.id} is left out: {left_out}"
        )
    if creator.stripe_account_id != order.destination:
        raise PayoutRefused(
            f"payout {order.payout_id}: {order.destination!r} is not creator {creator.id}'s account"
        )
    currency = order.currency or creator.currency
    currencies.check(order.amount, currency)
    post_earnings(tx)
    payable = eligibility.payable(tx, creator.id, currency, now)
    if order.amount > payable:
        raise PayoutRefused(
            f"payout {order.payout_id}: {order.amount} {currency} wanted but {payable} payable now"
        )
    payout = Payout(
        id=order.payout_id,
        creator_id=creator.id,
        currency=currency,
        amount=order.amount,
        destination=order.destination,
        method=order.method,
        status=PayoutStatus.REQUESTED,
        requested_at=now,
        updated_at=now,
    )
    tx.add(payout)
    tx.flush()
    post(tx, [booked(EntryKind.HOLD, TRANSFER.key(payout, 1), payout, now)])
    return payout
