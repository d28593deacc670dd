"""The second half of the way compared: bank payouts in the ledger, and on creators' accounts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session

from app.platform.gateways import pace
from app.platform.gateways.stripe import BankPayout, StripeGateway, StripeRefused
from app.platform.payouts.differences import Kind, Reconciliation, differing
from app.platform.payouts.engine import STRIPE_PACE
from app.platform.payouts.legs import CAME_BACK, CLOCK_SKEW
from app.platform.payouts.models import LegName, Payout, PayoutAttempt, PayoutStatus

Transaction = Callable[[], AbstractContextManager[Session]]
_ACCOUNTS = 100
_Row = Row[*tuple[Any, ...]]


def compare_banks(
    report: Reconciliation,
    transaction: Transaction,
    stripe: StripeGateway,
    now: datetime,
    since: datetime | None,
) -> None:
    """Add what differs between the bank payouts tried from `since` on and Stripe's lists of them.

    Only bank payouts that name a payout of ours count as ours: creators make their own, too.
    """
    accounts = defaultdict[str, list[_Row]](list)
    with transaction() as tx:
        for row in _rows(tx, since):
            accounts[row.destination].append(row)

    def listed(account: str) -> list[BankPayout]:
        first = min(row.first_sent_at for row in accounts[account]) - CLOCK_SKEW
        try:
            return list(stripe.list_payouts(account, first))
        except StripeRefused:
            return []  # the account is gone: each of its payouts is named as missing

    names = sorted(accounts)
    for start in range(0, len(names), _ACCOUNTS):
        page = names[start : start + _ACCOUNTS]
        with transaction() as tx:
            places = pace.take(tx, STRIPE_PACE, len(page), stripe.calls_per_second, now)
        for account, banks in zip(page, places.each(listed, page), strict=True):
            _compare(report, accounts[account], banks)


def _rows(tx: Session, since: datetime | None) -> Sequence[_Row]:
    P, A = Payout, PayoutAttempt
    sent = select(A.payout_id, func.min(A.first_sent_at).label("first_sent_at"))
    sent = sent.where(A.leg == LegName.BANK).group_by(A.payout_id)
    if since is not None:
        sent = sent.where(A.payout_id.in_(select(P.id).where(P.updated_at >= since)))
    firsts = sent.subquery().c
    columns = (P.id, P.status, P.amount, P.currency, P.destination, P.bank_payout_id)
    chosen = select(*columns, firsts.first_sent_at).where(firsts.payout_id == P.id)
    return tx.execute(chosen if since is None else chosen.where(P.updated_at >= since)).all()


def _compare(report: Reconciliation, rows: Sequence[_Row], banks: Sequence[BankPayout]) -> None:
    ours = defaultdict[str, list[BankPayout]](list)
    for bank in banks:
        ours[bank.metadata.get("payout_id", "")].append(bank)
    for row in rows:
        live = [bank for bank in ours[row.id] if bank.status not in CAME_BACK]
        for bank in live[1:]:
            detail = f"{bank.amount_minor} {bank.currency} to the bank, beside {live[0].id}"
            report.add(Kind.PAID_TWICE, detail, row.id, bank.id)
        own = next((bank for bank in ours[row.id] if bank.id == row.bank_payout_id), None)
        if own is not None:
            _compare_one(report, row, own)
        elif row.bank_payout_id is not None:
            detail = f"{row.amount} {row.currency} from {row.destination}, but no such bank payout"
            report.add(Kind.BANK_MISSING, detail, row.id, row.bank_payout_id)
        strange = [bank for bank in live if bank.id != row.bank_payout_id]
        if len(live) == 1 and strange and row.status != PayoutStatus.PAYING:
            detail = f"{live[0].amount_minor} {live[0].currency}, and the payout is {row.status}"
            report.add(Kind.BANK_NOT_IN_LEDGER, detail, row.id, live[0].id)


def _compare_one(report: Reconciliation, row: _Row, bank: BankPayout) -> None:
    wrong = differing(
        ("amount", row.amount, bank.amount_minor), ("currency", row.currency, bank.currency)
    )
    on_its_way = row.status in (PayoutStatus.IN_TRANSIT, PayoutStatus.PAID)
    # Paid where the ledger still has it in transit is but a word that has not come yet.
    if on_its_way == (bank.status in CAME_BACK):
        wrong.append(f"{row.status} in the ledger, {bank.status} at Stripe")
    if wrong:
        report.add(Kind.BANK_DIFFERS, "; ".join(wrong), row.id, bank.id)
