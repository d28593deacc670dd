"""How a pay day's, or a run's, payouts stand: for its result and for those who are notified."""

from __future__ import annotations

from datetime import date
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, cast, func, select
from sqlalchemy.orm import Session

from app.platform.ledger.postings import balanced, trial_balance
from app.platform.payouts.models import Payout, PayoutStatus

FAILURES_SHOWN = 100
_FAILED = (PayoutStatus.FAILED, PayoutStatus.BANK_FAILED, PayoutStatus.REVERSED)


def of_day(payout_date: date) -> ColumnElement[bool]:
    """The payouts of a pay day."""
    return Payout.payout_date == payout_date


def of_run(run_id: str) -> ColumnElement[bool]:
    """The payouts that a run took charge of last."""
    return Payout.run_id == run_id


def standing(tx: Session, which: ColumnElement[bool]) -> dict[str, Any]:
    """By status and currency (minor units); the first failures with their reasons; the books."""
    columns = (Payout.status, Payout.currency)
    total = cast(func.sum(Payout.amount), BigInteger)
    rows = tx.execute(
        select(*columns, func.count(), total).where(which).group_by(*columns).order_by(*columns)
    ).all()
    failed = select(Payout).where(which, Payout.status.in_(_FAILED))
    shown = tx.scalars(failed.order_by(Payout.id).limit(FAILURES_SHOWN))
    return {
        "totals": [
            {"status": status, "currency": currency, "count": count, "amount": amount}
            for status, currency, count, amount in rows
        ],
        "failures": [
            {
                "payoutId": payout.id,
                "creatorId": payout.creator_id,
                "currency": payout.currency,
                "amount": payout.amount,
                "reason": payout.reason,
            }
            for payout in shown
        ],
        "failureCount": sum(row[2] for row in rows if row[0] in _FAILED),
        "waitingForFunds": {row[1]: row[3] for row in rows if row[0] == PayoutStatus.REQUESTED},
        "ledgerBalanced": balanced(trial_balance(tx)),
    }
