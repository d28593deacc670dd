"""The second half of the way compared: bank payouts in the ledger, and on creators' accounts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.platform.gateways import pace
from app.platform.gateways.stripe import BankPayout, StripeGateway, StripeRefused
from app.platform.payouts.differences import Kind, Reconciliation, differing
from app.platform.payouts.engine import AT_ONCE, STRIPE_PACE
from app.platform.payouts.legs import CAME_BACK, CLOCK_SKEW
from app.platform.payouts.models import LegName, Payout, PayoutAttempt, PayoutStatus

Transaction = Callable[[], AbstractContextManager[Session]]
_ACCOUNTS = 100


class _Row(NamedTuple):
    id: str
    status: str
    amount: int
    currency: str
    destination: str
    bank_payout_id: str | None
    first_sent_at: datetime


def compare_banks(
    found: Reconciliation,
    transaction: Transaction,
    stripe: StripeGateway,
    now: datetime,
    since: datetime | None,
) -> None:
    """Add what differs between the bank payouts tried from `since` on and Stripe's lists of them.

    Only bank payouts that name a payout of ours count as ours: creators make their own, too.
    """
    with transaction() as tx:
        rows = _rows(tx, since)
    accounts: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        accounts[row.destination].append(row)
    names = sorted(accounts)
    for start in range(0, len(names), _ACCOUNTS):
        page = names[start : start + _ACCOUNTS]
        with transaction() as tx:
            places = pace.take(tx, STRIPE_PACE, len(page), stripe.calls_per_second, now)

        def listed(place: int, account: str, places: pace.Places = places) -> list[BankPayout]:
            places.wait(place)
            first = min(row.first_sent_at for row in accounts[account]) - CLOCK_SKEW
            try:
                return list(stripe.list_payouts(account, first))
            except StripeRefused:
                return []  # the account is gone: each of its payouts is named as missing

        with ThreadPoolExecutor(AT_ONCE) as pool:
            lists = list(pool.map(listed, range(len(page)), page))
        for account, banks in zip(page, lists, strict=True):
            _compare(found, accounts[account], banks)


def _rows(tx: Session, since: datetime | None) -> Sequence[_Row]:
    P, A = Payout, PayoutAttempt
    sent = (
        select(A.payout_id, func.min(A.first_sent_at).label("first"))
        .where(A.leg == LegName.BANK)
        .group_by(A.payout_id)
    )
    columns = (P.id, P.status, P.amount, P.currency, P.destination, P.bank_payout_id)
    chosen = select(*columns)
    if since is not None:
        chosen = chosen.where(P.updated_at >= since)
        recent = select(P.id).where(P.updated_at >= since)
        sent = sent.where(A.payout_id.in_(recent))
    firsts = sent.subquery()
    joined = chosen.add_columns(firsts.c.first).join(firsts, firsts.c.payout_id == P.id)
    return [_Row(*row) for row in tx.execute(joined)]


def _compare(found: Reconciliation, rows: Sequence[_Row], banks: Sequence[BankPayout]) -> None:
    ours: Mapping[str, list[BankPayout]] = defaultdict(list)
    for bank in banks:
        if (payout_id := bank.metadata.get("payout_id")) is not None:
            ours[payout_id].append(bank)
    for row in rows:
        live = [bank for bank in ours[row.id] if bank.status not in CAME_BACK]
        for bank in live[1:]:
            detail = f"{bank.amount_minor} {bank.currency} to the bank, beside {live[0].id}"
            found.add(Kind.PAID_TWICE, detail, row.id, bank.id)
        own = next((bank for bank in ours[row.id] if bank.id == row.bank_payout_id), None)
        if row.bank_payout_id is not None and own is None:
            detail = f"{row.amount} {row.currency} from {row.destination}, but no such bank payout"
            found.add(Kind.BANK_MISSING, detail, row.id, row.bank_payout_id)
        elif own is not None:
            _compare_one(found, row, own)
        strange = [bank for bank in live if bank.id != row.bank_payout_id]
        if len(live) == 1 and strange and row.status != PayoutStatus.PAYING:
            detail = f"{live[0].amount_minor} {live[0].currency}, and the payout is {row.status}"
            found.add(Kind.BANK_NOT_IN_LEDGER, detail, row.id, live[0].id)


def _compare_one(found: Reconciliation, row: _Row, bank: BankPayout) -> None:
    wrong = differing(
        ("amount", row.amount, bank.amount_minor), ("currency", row.currency, bank.currency)
    )
    came_back = bank.status in CAME_BACK
    on_its_way = row.status in (PayoutStatus.IN_TRANSIT, PayoutStatus.PAID)
    # Paid where the ledger still has it in transit is but a word that has not come yet.
    if on_its_way == came_back:
        wrong.append(f"{row.status} in the ledger, {bank.status} at Stripe")
    if wrong:
        found.add(Kind.BANK_DIFFERS, "; ".join(wrong), row.id, bank.id)
