"""How a pay day's, or a run's, payouts stand: for its result and for those who are notified."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, cast, func, select
from sqlalchemy.orm import Session

from app.platform.ledger.postings import balanced, trial_balance
from app.platform.payouts.models import Payout as P
from app.platform.payouts.models import PayoutStatus

FAILURES_SHOWN = 100
_FAILED = (PayoutStatus.FAILED, PayoutStatus.BANK_FAILED, PayoutStatus.REVERSED)


def standing(tx: Session, which: ColumnElement[bool]) -> dict[str, Any]:
    """By status and currency (minor units); the first failures with their reasons; the books."""
    by, total = (P.status, P.currency), cast(func.sum(P.amount), BigInteger)
    columns = (*by, func.count().label("count"), total.label("amount"))
    rows = tx.execute(select(*columns).where(which).group_by(*by).order_by(*by)).all()
    ids = (P.id.label("payoutId"), P.creator_id.label("creatorId"))
    failed = select(*ids, P.currency, P.amount, P.reason).where(which, P.status.in_(_FAILED))
    failed = failed.order_by(P.id)
    waiting = [row for row in rows if row.status == PayoutStatus.REQUESTED]
    return {
        "totals": [dict(row._mapping) for row in rows],
        "failures": [dict(row._mapping) for row in tx.execute(failed.limit(FAILURES_SHOWN))],
        "failureCount": sum(row._mapping["count"] for row in rows if row.status in _FAILED),
        "waitingForFunds": {row.currency: row.amount for row in waiting},
        "ledgerBalanced": balanced(trial_balance(tx)),
    }
