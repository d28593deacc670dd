"""Creators are mailed what became of their payouts, in the transaction in which it happened."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.platform.earnings.models import Creator as C
from app.platform.mail import mail_creator, mailing
from app.platform.payouts.legs import Change
from app.platform.payouts.models import Payout as P
from app.platform.payouts.models import PayoutStatus
from app.switchyard.clock import iso

_PAID, _FAILED = "payout-paid", "payout-failed"
_TEMPLATES = {
    PayoutStatus.PAID: _PAID,
    PayoutStatus.FAILED: _FAILED,
    PayoutStatus.BANK_FAILED: _FAILED,
}


def payouts_moved(tx: Session, changes: Mapping[str, Change], now: datetime) -> None:
    """Mail the creators whose payouts, just moved, were paid or failed.

    Once for each time the money arrived, and once for each reason it did not.
    """
    told = {id_: one for id_, one in changes.items() if one.status in _TEMPLATES}
    if not told or not mailing():
        return
    wanted = select(
        *(P.id, P.amount, P.currency, P.reason, P.transfer_id, P.bank_payout_id, C.name, C.email)
    ).join(C, C.id == P.creator_id)
    for row in tx.execute(wanted.where(P.id.in_(told))):
        template = _TEMPLATES[told[row.id].status]
        data = {"payoutId": row.id, "amount": row.amount, "currency": row.currency}
        if template == _PAID:
            which, more = row.bank_payout_id or row.transfer_id, {"paidAt": iso(now)}
        else:
            which, more = row.reason or "", {} if row.reason is None else {"reason": row.reason}
        key = sha256(f"{row.id} {which}".encode()).hexdigest()[:32]
        mail_creator(tx, row.name, row.email, template, data | more, f"{template}:{key}")
