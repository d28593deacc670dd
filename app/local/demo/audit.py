"""The end of the demo: compares what is owed with the ledger and with Stripe's own list."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import func, select

from app.platform.gateways.stripe import StripeGateway
from app.platform.ledger.postings import balanced, trial_balance
from app.platform.payouts.eligibility import verdicts
from app.platform.payouts.models import Payout, PayoutStatus
from app.switchyard.db import Database
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import StepRow as S
from app.switchyard.runs.models import StepStatus

PAYING_JOB = "process-payouts"
BACKENDS = ("rq", "inngest")
_TRANSFERRED = (
    select(S.backend, S.result)
    .join(R, R.id == S.run_id)
    .where(R.job == PAYING_JOB, S.name.like("transfer-%"), S.status == StepStatus.DONE)
)


class Due(NamedTuple):
    """What one creator is owed, in minor units."""

    creator: str
    destination: str
    currency: str
    amount: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What became of the pay day."""

    payouts: int
    transfers: int
    """Those that Stripe has."""
    paid_twice: int
    lost: int
    by_backend: dict[str, int]
    """How many payouts each backend transferred."""
    handed_over: int
    """Runs that changed backend."""
    ledger_balanced: bool
    differences: list[str]
    """One sentence for each thing that is wrong."""


def due(db: Database, now: datetime) -> list[Due]:
    """Who is owed how much, read before anything is paid."""
    verdict = verdicts(now).subquery().c
    columns = (verdict.creator_id, verdict.destination, verdict.currency, verdict.amount)
    return [Due(*row) for row in db.rows(select(*columns).where(verdict.reason.is_(None)))]


def audit(db: Database, stripe: StripeGateway, expected: list[Due]) -> Audit:
    """Compare creator by creator."""
    at_stripe = stripe.platform_balance().total
    sent: dict[tuple[str | None, str], list[tuple[str | None, int]]] = defaultdict(list)
    for transfer in stripe.list_transfers():
        whose = (transfer.destination, transfer.currency)
        sent[whose].append((transfer.id, transfer.amount))
    columns = (Payout.creator_id, Payout.currency, Payout.transfer_id, Payout.amount)
    with db.autocommit() as connection:
        rows = connection.execute(select(*columns).where(Payout.status == PayoutStatus.PAID))
        paid = {(row[0], row[1]): (row[2], row[3]) for row in rows}
        books = trial_balance(connection)
        by_backend = dict.fromkeys(BACKENDS, 0)
        for backend, result in connection.execute(_TRANSFERRED):
            by_backend[backend] += json.loads(str(result))["landed"]
        moved = select(func.count()).select_from(R).where(R.reason == "HANDED_OVER")
        handed_over = connection.scalar(moved) or 0
    transfers = sum(map(len, sent.values()))
    differences: list[str] = []
    lost = twice = 0
    for one in expected:
        theirs = sent.pop((one.destination, one.currency), [])
        ours = paid.pop((one.creator, one.currency), None)
        twice += max(0, len(theirs) - 1)
        if theirs == [ours] and theirs[0][1] == one.amount:
            continue
        lost += len(theirs) < 2
        owed = f"{one.creator} is owed {one.amount} {one.currency}"
        differences.append(f"{owed}; Stripe has {theirs}, the ledger {ours}")
    differences += [f"{whose} is not owed what Stripe has, {what}" for whose, what in sent.items()]
    differences += [f"{whose} is not owed what the ledger has" for whose in paid]
    of_books = [
        f"the ledger's cash is {totals.cash} {currency}, Stripe's {at_stripe.get(currency, 0)}"
        for currency, totals in books.items()
        if totals.cash != at_stripe.get(currency, 0)
    ]
    return Audit(
        payouts=sum(by_backend.values()),
        transfers=transfers,
        paid_twice=twice,
        lost=lost,
        by_backend=by_backend,
        handed_over=handed_over,
        ledger_balanced=balanced(books) and not of_books,
        differences=differences + of_books,
    )
