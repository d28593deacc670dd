"""What creators are told by mail, in the very transaction in which it happened: none is lost, none
doubled. A mail that cannot be made is left out and logged: it stops no money and no statement."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.platform.earnings.models import Creator as C
from app.platform.mail import send_email_delayed
from app.platform.payouts.legs import Change
from app.platform.payouts.models import Payout as P
from app.platform.payouts.models import PayoutStatus
from app.platform.statements.models import Statement as S
from app.switchyard import runtime
from app.switchyard.clock import iso
from app.switchyard.errors import BadInput

log = logging.getLogger(__name__)

_PAID, _FAILED = "payout-paid", "payout-failed"
_TEMPLATES = {
    PayoutStatus.PAID: _PAID,
    PayoutStatus.FAILED: _FAILED,
    PayoutStatus.BANK_FAILED: _FAILED,
}


def on() -> bool:
    """Whether there is a mail server to send with."""
    return runtime.current().engine.gateways.mailer is not None


def payouts_moved(tx: Session, changes: Mapping[str, Change], now: datetime) -> None:
    """Mail the creators whose payouts, just moved, were paid or failed.

    Once for each time the money arrived, and once for each reason it did not.
    """
    told = {id_: one for id_, one in changes.items() if one.status in _TEMPLATES}
    if not told or not on():
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
        _mail(tx, row, template, data | more, f"{template}:{key}")


def statements_made(tx: Session, statement_ids: Sequence[str]) -> None:
    """Mail the creators of these statements, just made, that they are there: each version once."""
    if not statement_ids or not on() or runtime.current().settings.backend_url is None:
        return
    wanted = select(S.id, S.creator_id, S.month, S.version, C.name, C.email)
    wanted = wanted.join(C, C.id == S.creator_id).where(S.id.in_(statement_ids))
    for row in tx.execute(wanted.order_by(S.id)):
        month = f"{row.month:%Y-%m}"
        data = {"creatorId": row.creator_id, "month": month, "version": row.version}
        _mail(tx, row, "statement-ready", data, f"statement:{row.id}:{row.version}")


def _mail(tx: Session, row: Any, template: str, data: Mapping[str, Any], key: str) -> None:
    try:
        send_email_delayed(row.email, template, {"name": row.name, **data}, key=key, session=tx)
    except BadInput as misfit:
        log.warning("creator not told by mail", extra={"about": row.id, "why": str(misfit)})
