"""Plans a pay day without paying: for people to read, and to compare with what a run did."""

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
    """Who would be paid now on that pay day, and why the others would not. Only reads.

    `pay` lists payouts that would be requested, and those already under way (with payoutId and
    status). `paid` lists who was paid for that day. `leftOut` lists balances that are not paid, and
    the day's failed payouts, with their status as the reason. Amounts are in minor units.
    """
    rows: dict[str, list[dict[str, Any]]] = {"pay": [], "paid": [], "leftOut": []}

    def add(where: str, row: Any, amount: int, **more: Any) -> None:
        one = {"creatorId": row.creator_id, "currency": row.currency, "amount": amount}
        rows[where].append(one | more)

    there = select(Payout).where(Payout.payout_date == payout_date)
    for payout in tx.scalars(there):
        if payout.status == PayoutStatus.PAID:
            add("paid", payout, payout.amount)
        elif payout.settled_at is None:
            order = {"destination": payout.destination, "payoutId": payout.id}
            add("pay", payout, payout.amount, **order, status=payout.status)
        else:
            add("leftOut", payout, payout.amount, reason=payout.status)
    v = verdicts(now, unposted=True).subquery().c
    has_one = there.where(Payout.creator_id == v.creator_id, Payout.currency == v.currency).exists()
    for row in tx.execute(select(*v).where(~has_one)):
        if row.reason is None:
            add("pay", row, row.amount, destination=row.destination)
        else:
            add("leftOut", row, row.balance, reason=row.reason)
    for listed in rows.values():
        listed.sort(key=lambda one: (one["creatorId"], one["currency"]))
    counts, sums = Counter[str](), Counter[str]()
    for one in rows["pay"]:
        counts[one["currency"]] += 1
        sums[one["currency"]] += one["amount"]
    return {
        "payoutDate": payout_date.isoformat(),
        "booksBalanced": balanced(trial_balance(tx)),
        "totals": [
            {"currency": currency, "count": counts[currency], "amount": sums[currency]}
            for currency in sorted(counts)
        ],
        "leftOutTotals": dict(sorted(Counter(one["reason"] for one in rows["leftOut"]).items())),
        **rows,
    }


def planned_payouts(plan: dict[str, Any]) -> dict[str, Any]:
    """The payouts of a plan by creator and currency: the same before, during and after the day."""
    made = [one for one in plan["leftOut"] if one["reason"] in PayoutStatus.__members__.values()]
    every = [*plan["pay"], *plan["paid"], *made]
    return {
        "requested": len(every),
        "payouts": {f"{one['creatorId']}:{one['currency']}": one["amount"] for one in every},
    }


def made_payouts(tx: Session, payload: Any, result: dict[str, Any]) -> dict[str, Any]:
    """The day's actual payouts in the same form, with `requested` taken from the run's result."""
    columns = (Payout.creator_id, Payout.currency, Payout.amount)
    rows = tx.execute(select(*columns).where(Payout.payout_date == payload.payout_date))
    amounts = {f"{creator}:{currency}": amount for creator, currency, amount in rows}
    return {"requested": result["requested"], "payouts": amounts}
