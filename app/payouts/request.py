"""An order to pay one payout, met by the payout it names or, unknown, by a new manual one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.earnings.models import Creator
from app.jobs.errors import NonRetriable
from app.ledger.postings import EntryKind, Posting, balance, creator_account, hold_account, post
from app.payouts.eligibility import gate
from app.payouts.models import Payout, PayoutStatus


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be paid; `amount` in minor units of `currency` (None: the creator's own)."""

    payout_id: str
    creator_id: str
    amount: int
    destination: str
    currency: str | None = None


def demanded(tx: Session, order: Order, now: datetime) -> Payout:
    """The payout the order names, locked; an unknown one is requested now and its money set aside.

    Raises NonRetriable where the order does not fit the payout, the creator or the balance.
    """
    payout = tx.scalar(select(Payout).where(Payout.id == order.payout_id).with_for_update())
    if payout is None:
        return _request(tx, order, now)
    for name, wanted, given in (
        ("creator", payout.creator_id, order.creator_id),
        ("amount", payout.amount, order.amount),
        ("destination", payout.destination, order.destination),
        ("currency", payout.currency, order.currency or payout.currency),
    ):
        if wanted != given:
            raise NonRetriable(f"payout {payout.id} has {name} {wanted}, not {given}")
    return payout


def _request(tx: Session, order: Order, now: datetime) -> Payout:
    # Locked, so that two payouts requested at once cannot both spend one balance.
    found = tx.execute(
        select(Creator, gate()).where(Creator.id == order.creator_id).with_for_update()
    ).one_or_none()
    if found is None:
        raise NonRetriable(f"payout {order.payout_id}: no creator {order.creator_id!r}")
    creator, left_out = found
    if left_out is not None:
        raise NonRetriable(
            f"payout {order.payout_id}: creator {creator.id} is left out: {left_out}"
        )
    if creator.stripe_account_id != order.destination:
        raise NonRetriable(
            f"payout {order.payout_id}: {order.destination!r} is not creator {creator.id}'s account"
        )
    currency = order.currency or creator.currency
    account = creator_account(creator.id)
    owed = balance(tx, account, currency)
    if order.amount > owed:
        raise NonRetriable(
            f"payout {order.payout_id}: {order.amount} {currency} wanted but {owed} owed"
        )
    payout = Payout(
        id=order.payout_id,
        creator_id=creator.id,
        currency=currency,
        amount=order.amount,
        destination=order.destination,
        status=PayoutStatus.REQUESTED,
        requested_at=now,
    )
    tx.add(payout)
    tx.flush()
    hold = hold_account(payout.id)
    held = Posting(EntryKind.HOLD, f"{payout.id}-1", account, hold, currency, order.amount, now)
    post(tx, [held])
    return payout
