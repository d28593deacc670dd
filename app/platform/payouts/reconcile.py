"""The ledger against Stripe's own list, both ways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, cast, func, select

from app.platform.gateways.stripe import StripeGateway
from app.platform.gateways.stripe_objects import Transfer
from app.platform.ledger.postings import Totals, trial_balance
from app.platform.payouts.differences import AnyRow, Kind, Reconciliation, differing, rows
from app.platform.payouts.legs import CLOCK_SKEW
from app.platform.payouts.models import LegName, Payout, PayoutStatus
from app.platform.payouts.reconcile_banks import Transaction, compare_banks

WINDOW = timedelta(days=30)
IN_FLIGHT = timedelta(minutes=2)
"""How long a transfer may wait for its record: a call's 20 s, and a slow commit."""


def reconcile(
    transaction: Transaction,
    stripe: StripeGateway,
    now: datetime,
    since: datetime,
    *,
    banks: bool = True,
) -> Reconciliation:
    """Compare what was paid from `since` on, and the cash and the books of today.

    With `banks` also the way from the creators' Stripe accounts on: a call per account. No
    transaction is open while Stripe answers. What is paid meanwhile is no difference: the ledger
    is read before Stripe's list, and again for every transfer it did not explain. Memory is that of
    the window's payouts. Raises what the gateway raises.
    """
    report = Reconciliation()
    since = since.replace(microsecond=0)  # as exact as Stripe's times are
    begin = since - CLOCK_SKEW
    with transaction() as tx:
        window = (Payout.transfer_id.is_not(None), Payout.updated_at >= since)
        ours = rows(tx, LegName.TRANSFER, *window)
    theirs = {one.id: one for one in stripe.list_transfers(created_gte=begin)}
    report.payouts = len(ours)
    report.transfers = sum(one.created >= since for one in theirs.values())
    missing = dict[str, AnyRow]()
    for row in ours:
        early = row.first_sent_at is None or row.first_sent_at < begin
        if early and row.transfer_id not in theirs:
            theirs |= {one.id: one for one in stripe.list_transfers(transfer_group=row.id)}
        own = theirs.pop(row.transfer_id, None)
        if own is None:
            missing[row.id] = row
        else:
            _compare(report, row, own)
    named = {one.transfer_group for one in theirs.values()}
    with transaction() as tx:
        known = {row.id: row for row in rows(tx, LegName.TRANSFER, Payout.id.in_(named))}
    _explain(report, known, theirs.values(), missing, now)
    for row in missing.values():
        detail = f"{row.amount} {row.currency} paid to {row.destination}, but no such transfer"
        report.add(Kind.MISSING_AT_STRIPE, detail, row.id, row.transfer_id)
    if banks:
        compare_banks(report, transaction, stripe, since)
    # A payout may have been recorded between the two reads: only what stays is a difference.
    books, wrong = _cash(transaction, stripe)
    books, wrong = _cash(transaction, stripe) if wrong else (books, wrong)
    for detail in unbalanced(books):
        report.add(Kind.BOOKS_UNBALANCED, detail)
    for detail in wrong:
        report.add(Kind.CASH_DIFFERS, detail)
    return report


def unbalanced(books: Mapping[str, Totals]) -> list[str]:
    """A sentence for each currency whose books do not balance."""
    return [
        f"{currency}: {t.negative_holds} payouts took more than was set aside for them"
        if t.negative_holds
        else f"{currency}: owed {t.owed} + held {t.held} + fees {t.fees} is not"
        f" cash {t.cash} + on creators' Stripe accounts {t.connected}"
        for currency, t in books.items()
        if not t.balanced
    ]


def _explain(
    report: Reconciliation,
    known: Mapping[str, AnyRow],
    strange: Iterable[Transfer],
    missing: dict[str, AnyRow],
    now: datetime,
) -> None:
    """Name the transfers that are not one of the window's paid payouts' own."""
    open_ = (PayoutStatus.REQUESTED, PayoutStatus.SENDING)
    has_one = {row.id for row in known.values() if row.transfer_id is not None}
    for one in strange:
        row = known.get(one.transfer_group or "")
        what = f"{one.amount} {one.currency} to {one.destination}"
        if row is not None and row.transfer_id == one.id:
            # Paid before the window, or since it was read.
            _compare(report, row, one)
        elif one.amount_reversed >= one.amount:
            continue  # what it moved is back
        elif row is None:
            detail = f"{what}, and no payout {one.transfer_group!r}"
            report.add(Kind.NOT_PAID_IN_LEDGER, detail, None, one.id)
        elif missing.pop(row.id, None) is not None:
            detail = f"{what}, where the ledger has {row.transfer_id}, which Stripe has not"
            report.add(Kind.DIFFERS, detail, row.id, one.id)
        elif row.id in has_one:
            report.add(Kind.PAID_TWICE, f"{what}, beside {row.transfer_id}", row.id, one.id)
        elif row.status not in open_ or one.created <= now - IN_FLIGHT:
            has_one.add(row.id)
            detail = f"{what}, and the payout is {row.status}"
            report.add(Kind.NOT_PAID_IN_LEDGER, detail, row.id, one.id)


def _compare(report: Reconciliation, row: AnyRow, transfer: Transfer) -> None:
    wrong = differing(
        ("amount", row.amount, transfer.amount),
        ("currency", row.currency, transfer.currency),
        ("destination", row.destination, transfer.destination),
    )
    if wrong:
        report.add(Kind.DIFFERS, "; ".join(wrong), row.id, transfer.id)
    if transfer.amount_reversed and row.status != PayoutStatus.REVERSED:
        detail = f"{transfer.amount_reversed} of {transfer.amount} {transfer.currency}"
        report.add(Kind.REVERSED, detail, row.id, transfer.id)


def _cash(
    transaction: Transaction, stripe: StripeGateway
) -> tuple[Mapping[str, Totals], list[str]]:
    """The books, and a sentence for each currency whose cash is not what Stripe has.

    What is being sent may have left Stripe's balance or not.
    """
    total = cast(func.sum(Payout.amount), BigInteger)
    chosen = select(Payout.currency, total).where(Payout.status == PayoutStatus.SENDING)
    with transaction() as tx:
        books = trial_balance(tx)
        sending = {row[0]: row[1] for row in tx.execute(chosen.group_by(Payout.currency))}
    available = stripe.platform_balance().total
    wrong = list[str]()
    for currency in sorted(books.keys() | available.keys()):
        cash = books[currency].cash if currency in books else 0
        has, may = available.get(currency, 0), sending.get(currency, 0)
        if not cash - may <= has <= cash:
            less = f" (of it {may} being sent)" if may else ""
            wrong.append(f"the ledger's cash is {cash} {currency}{less}, Stripe's {has}")
    return books, wrong
