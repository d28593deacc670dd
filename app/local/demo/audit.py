"""The end of the demo: what should have been paid, against the ledger and Stripe's own list."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from app.platform.gateways.stripe import StripeGateway
from app.platform.gateways.stripe_objects import Transfer
from app.platform.ledger.postings import balanced, trial_balance
from app.platform.payouts.eligibility import verdicts
from app.platform.payouts.models import Payout, PayoutStatus
from app.switchyard.db import Database
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import StepRow as S
from app.switchyard.runs.models import StepStatus

PAYING_JOB = "process-payouts"
BACKENDS = ("rq", "inngest")


class Due(NamedTuple):
    """What one creator is to be paid; minor units."""

    creator: str
    destination: str
    currency: str
    amount: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What became of the pay day."""

    payouts: int
    """Paid, as the ledger has it."""
    transfers: int
    """Sent, as Stripe has it."""
    paid_twice: int
    lost: int
    by_backend: dict[str, int]
    """Payouts by the backend that ran the step which transferred them."""
    handed_over: int
    """Runs that changed backend, at least once each."""
    ledger_balanced: bool
    differences: tuple[str, ...]
    """One sentence for each thing that is not as it should be."""


def due(db: Database, now: datetime) -> list[Due]:
    """Who is to be paid and how much, asked before anything is paid."""
    verdict = verdicts(now).subquery().c
    columns = (verdict.creator_id, verdict.destination, verdict.currency, verdict.amount)
    with db.autocommit() as connection:
        rows = connection.execute(select(*columns).where(verdict.reason.is_(None)))
        return [Due(*row) for row in rows]


def audit(db: Database, stripe: StripeGateway, expected: list[Due]) -> Audit:
    """Compare creator by creator."""
    transfers = list(stripe.list_transfers())
    stripe_balance = stripe.platform_balance().total
    with db.autocommit() as connection:
        paid = _paid(connection)
        books = trial_balance(connection)
        by_backend = _by_backend(connection)
        moved = select(func.count()).select_from(R).where(R.reason == "HANDED_OVER")
        handed_over = connection.scalar(moved) or 0
    sent: dict[tuple[str, str], list[Transfer]] = defaultdict(list)
    for transfer in transfers:
        sent[transfer.destination, transfer.currency].append(transfer)
    differences: list[str] = []
    lost = twice = 0
    for one in expected:
        theirs = sent.pop((one.destination, one.currency), [])
        complaints = _complaints(one, theirs, paid.pop((one.creator, one.currency), None))
        twice += max(0, len(theirs) - 1)
        lost += bool(complaints) and len(theirs) < 2
        differences += complaints
    for transfer in (transfer for left in sent.values() for transfer in left):
        differences.append(f"{transfer.id} pays {transfer.destination}, which was not to be paid")
    differences += [f"{creator} ({currency}) is paid unasked" for creator, currency in paid]
    of_books = [
        f"the ledger's cash is {totals.cash} {currency}, Stripe's {stripe_balance.get(currency, 0)}"
        for currency, totals in books.items()
        if totals.cash != stripe_balance.get(currency, 0)
    ]
    return Audit(
        payouts=sum(by_backend.values()),
        transfers=len(transfers),
        paid_twice=twice,
        lost=lost,
        by_backend=by_backend,
        handed_over=handed_over,
        ledger_balanced=balanced(books) and not of_books,
        differences=(*differences, *of_books),
    )


def _paid(connection: Connection) -> dict[tuple[str, str], tuple[str, int]]:
    """Transfer and amount by creator and currency of every payout that the ledger has as paid."""
    columns = (Payout.creator_id, Payout.currency, Payout.transfer_id, Payout.amount)
    rows = connection.execute(select(*columns).where(Payout.status == PayoutStatus.PAID))
    return {(row[0], row[1]): (str(row[2]), row[3]) for row in rows}


def _complaints(one: Due, theirs: list[Transfer], paid: tuple[str, int] | None) -> list[str]:
    who = f"{one.creator} ({one.amount} {one.currency})"
    if not theirs:
        return [f"{who} was not paid; the ledger says {'paid' if paid else 'not paid'}"]
    if len(theirs) > 1:
        return [f"{who} was paid {len(theirs)} times: {', '.join(one.id for one in theirs)}"]
    (transfer,) = theirs
    complaints = []
    if transfer.amount_minor != one.amount:
        complaints.append(f"{who} was paid {transfer.amount_minor} by {transfer.id}")
    if paid != (transfer.id, transfer.amount_minor):
        complaints.append(f"{who} was paid by {transfer.id}, but the ledger says {paid}")
    return complaints


def _by_backend(connection: Connection) -> dict[str, int]:
    rows = connection.execute(
        select(S.backend, S.result)
        .join(R, R.id == S.run_id)
        .where(R.job == PAYING_JOB, S.name.like("transfer-%"), S.status == StepStatus.DONE)
    )
    landed = dict.fromkeys(BACKENDS, 0)
    for backend, result in rows:
        landed[backend] += json.loads(str(result))["landed"]
    return landed
