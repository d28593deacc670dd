"""The second half of the way compared: bank payouts in the ledger, and on creators' accounts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime

from sqlalchemy.orm import Session

from app.platform.gateways.stripe import StripeGateway
from app.platform.gateways.stripe_errors import StripeRefused
from app.platform.gateways.stripe_objects import BankPayout
from app.platform.payouts.differences import AnyRow, Kind, Reconciliation, differing, rows
from app.platform.payouts.legs import CLOCK_SKEW
from app.platform.payouts.models import LegName, Payout, PayoutStatus

Transaction = Callable[[], AbstractContextManager[Session]]


def compare_banks(
    report: Reconciliation, transaction: Transaction, stripe: StripeGateway, since: datetime
) -> None:
    """Add what differs between the bank payouts tried from `since` on and Stripe's lists of them.

    Only bank payouts that name a payout of ours count as ours: creators make their own, too.
    """
    accounts = defaultdict[str, list[AnyRow]](list)
    with transaction() as tx:
        for row in rows(tx, LegName.BANK, Payout.updated_at >= since):
            if row.first_sent_at is not None:
                accounts[row.destination].append(row)

    def listed(account: str) -> list[BankPayout]:
        first = min(row.first_sent_at for row in accounts[account]) - CLOCK_SKEW
        try:
            return list(stripe.list_payouts(account, first))
        except StripeRefused:
            return []  # the account is gone: each of its payouts is named as missing

    names = sorted(accounts)
    for account, banks in zip(names, stripe.each(listed, names), strict=True):
        _compare(report, accounts[account], banks)


def _compare(report: Reconciliation, ours: Sequence[AnyRow], banks: Sequence[BankPayout]) -> None:
    named = defaultdict[str, list[BankPayout]](list)
    for bank in banks:
        named[bank.metadata.get("payout_id", "")].append(bank)
    for row in ours:
        live = [bank for bank in named[row.id] if not bank.came_back]
        for bank in live[1:]:
            detail = f"{bank.amount} {bank.currency} to the bank, beside {live[0].id}"
            report.add(Kind.PAID_TWICE, detail, row.id, bank.id)
        own = next((bank for bank in named[row.id] if bank.id == row.bank_payout_id), None)
        if own is not None:
            _compare_one(report, row, own)
        elif row.bank_payout_id is not None:
            detail = f"{row.amount} {row.currency} from {row.destination}, but no such bank payout"
            report.add(Kind.BANK_MISSING, detail, row.id, row.bank_payout_id)
        strange = [bank for bank in live if bank.id != row.bank_payout_id]
        if len(live) == 1 and strange and row.status != PayoutStatus.PAYING:
            detail = f"{live[0].amount} {live[0].currency}, and the payout is {row.status}"
            report.add(Kind.BANK_NOT_IN_LEDGER, detail, row.id, live[0].id)


def _compare_one(report: Reconciliation, row: AnyRow, bank: BankPayout) -> None:
    wrong = differing(
        ("amount", row.amount, bank.amount), ("currency", row.currency, bank.currency)
    )
    on_its_way = row.status in (PayoutStatus.IN_TRANSIT, PayoutStatus.PAID)
    # Paid where the ledger still has it in transit is but a word that has not come yet.
    if on_its_way == bank.came_back:
        wrong.append(f"{row.status} in the ledger, {bank.status} at Stripe")
    if wrong:
        report.add(Kind.BANK_DIFFERS, "; ".join(wrong), row.id, bank.id)
