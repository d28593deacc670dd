"""Creators are mailed what became of their payouts, in the transaction in which it happened."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.platform.earnings.models import Creator
from app.platform.mail import mail_creator, mailing
from app.platform.payouts.models import Payout, PayoutStatus
from app.switchyard.clock import iso


def payouts_moved(tx: Session, payouts: Sequence[Payout], now: datetime) -> None:
    """Mail the creators whose payouts, just moved, were paid or failed.

    Once for each time the money arrived, and once for each reason it did not.
    """
    ended = (PayoutStatus.PAID, PayoutStatus.FAILED, PayoutStatus.BANK_FAILED)
    payouts = [payout for payout in payouts if payout.status in ended]
    if not payouts or not mailing():
        return
    owners = {payout.creator_id for payout in payouts}
    creators = {one.id: one for one in tx.scalars(select(Creator).where(Creator.id.in_(owners)))}
    for payout in payouts:
        creator = creators[payout.creator_id]
        data = {"payoutId": payout.id, "amount": payout.amount, "currency": payout.currency}
        if payout.status == PayoutStatus.PAID:
            template, which = "payout-paid", payout.bank_payout_id or payout.transfer_id
            data["paidAt"] = iso(now)
        else:
            template, which = "payout-failed", payout.reason or ""
            data |= {} if payout.reason is None else {"reason": payout.reason}
        key = sha256(f"{payout.id} {which}".encode()).hexdigest()[:32]
        mail_creator(tx, creator.name, creator.email, template, data, f"{template}:{key}")
