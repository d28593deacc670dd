"""Who would be paid on a pay day, without paying: for people, and to compare with what was done."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.platform.ledger.postings import balanced, trial_balance
from app.platform.payouts.eligibility import verdicts
from app.platform.payouts.models import Payout, PayoutStatus


def plan_day(tx: Session, payout_date: date, now: datetime) -> dict[str, Any]:
    """Who would be paid now on that pay day, and why the others would not; only reads.

    `pay` has what would be requested, and what is requested and not finished yet (with payoutId and
    status); `paid` who was paid for that day; `leftOut` the balances that stay, and the day's
    payouts that failed (the reason is their status). Amounts are minor units.
    """
    pay, paid, left_out = (list[dict[str, Any]]() for _ in range(3))
    there = select(Payout).where(Payout.payout_date == payout_date)
    for payout in tx.scalars(there):
        one = _amount(payout.creator_id, payout.currency, payout.amount)
        if payout.status == PayoutStatus.PAID:
            paid.append(one)
        elif payout.settled_at is None:
            order = {"destination": payout.destination, "payoutId": payout.id}
            pay.append(one | order | {"status": payout.status})
        else:
            left_out.append(one | {"reason": payout.status})
    v = verdicts(now, unposted=True).subquery().c
    has_one = there.where(Payout.creator_id == v.creator_id, Payout.currency == v.currency).exists()
    for row in tx.execute(select(*v).where(~has_one)):
        if row.reason is None:
            one = _amount(row.creator_id, row.currency, row.amount)
            pay.append(one | {"destination": row.destination})
        else:
            one = _amount(row.creator_id, row.currency, row.balance)
            left_out.append(one | {"reason": row.reason})
    for rows in (pay, paid, left_out):
        rows.sort(key=lambda one: (one["creatorId"], one["currency"]))
    counts, sums = Counter[str](), Counter[str]()
    for one in pay:
        counts[one["currency"]] += 1
        sums[one["currency"]] += one["amount"]
    return {
        "payoutDate": payout_date.isoformat(),
        "booksBalanced": balanced(trial_balance(tx)),
        "totals": [
            {"currency": currency, "count": counts[currency], "amount": sums[currency]}
            for currency in sorted(counts)
        ],
        "leftOutTotals": dict(sorted(Counter(one["reason"] for one in left_out).items())),
        "pay": pay,
        "paid": paid,
        "leftOut": left_out,
    }


def _amount(creator_id: str, currency: str, amount: int) -> dict[str, Any]:
    return {"creatorId": creator_id, "currency": currency, "amount": amount}


def planned_payouts(plan: dict[str, Any]) -> dict[str, Any]:
    """Of a plan what the day leaves behind, whether it has yet to begin or is over: each payout's
    amount by creator and currency."""
    made = [one for one in plan["leftOut"] if one["reason"] in PayoutStatus.__members__.values()]
    every = [*plan["pay"], *plan["paid"], *made]
    return {
        "requested": len(every),
        "payouts": {f"{one['creatorId']}:{one['currency']}": one["amount"] for one in every},
    }


def made_payouts(tx: Session, payload: Any, result: dict[str, Any]) -> dict[str, Any]:
    """The same of a day's payouts as they are, `requested` as the run that made them says."""
    columns = (Payout.creator_id, Payout.currency, Payout.amount)
    rows = tx.execute(select(*columns).where(Payout.payout_date == payload.payout_date))
    amounts = {f"{creator}:{currency}": amount for creator, currency, amount in rows}
    return {"requested": result["requested"], "payouts": amounts}
