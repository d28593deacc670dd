"""The ledger against Stripe's own list, both ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Row, cast, func, select
from sqlalchemy.orm import Session

from app.platform.gateways.stripe import StripeGateway, Transfer
from app.platform.ledger.postings import Totals, balanced, trial_balance
from app.platform.payouts.differences import Kind, Reconciliation, differing
from app.platform.payouts.legs import CLOCK_SKEW
from app.platform.payouts.models import Payout, PayoutAttempt, PayoutStatus
from app.platform.payouts.reconcile_banks import Transaction, compare_banks

WINDOW = timedelta(days=30)
IN_FLIGHT = timedelta(minutes=2)
"""How long a transfer may wait for its record: a call's 20 s, and a slow commit."""
_CHUNK = 500
_Row = Row[*tuple[Any, ...]]


def reconcile(
    transaction: Transaction,
    stripe: StripeGateway,
    now: datetime,
    since: datetime | None = None,
    *,
    banks: bool = True,
) -> Reconciliation:
    """Compare what was paid from `since` on (default: ever), and the cash and the books of today.

    With `banks` also the way from the creators' Stripe accounts on: a call per account. No
    transaction is open while Stripe answers. What is paid meanwhile is no difference: the ledger
    is read before Stripe's list, and again for every transfer it did not explain. Memory is that of
    the window's payouts. Raises what the gateway raises.
    """
    report = Reconciliation()
    paid: list[ColumnElement[bool]] = [Payout.transfer_id.is_not(None)]
    if since is not None:
        since = since.replace(microsecond=0)  # as exact as Stripe's times are
        paid.append(Payout.updated_at >= since)
    with transaction() as tx:
        unmatched = {row.id: row for row in _rows(tx, *paid)}
    report.payouts = len(unmatched)
    strange = list[Transfer]()
    for transfer in _transfers(stripe, unmatched, since):
        report.transfers += since is None or transfer.created >= since
        own = unmatched.get(transfer.transfer_group or "")
        if own is not None and own.transfer_id == transfer.id:
            del unmatched[own.id]
            _compare(report, own, transfer)
        else:
            strange.append(transfer)
    _explain(report, _named(transaction, strange), strange, unmatched, now)
    for row in unmatched.values():
        detail = f"{row.amount} {row.currency} paid to {row.destination}, but no such transfer"
        report.add(Kind.MISSING_AT_STRIPE, detail, row.id, row.transfer_id)
    if banks:
        compare_banks(report, transaction, stripe, now, since)
    # A payout may have been recorded between the two reads: only what stays is a difference.
    books, wrong = _cash(transaction, stripe)
    books, wrong = _cash(transaction, stripe) if wrong else (books, wrong)
    for detail in unbalanced(books):
        report.add(Kind.BOOKS_UNBALANCED, detail)
    for detail in wrong:
        report.add(Kind.CASH_DIFFERS, detail)
    return report


def unbalanced(books: Mapping[str, Totals]) -> list[str]:
    """A sentence for each currency whose books do not balance; see postings.balanced."""
    return [
        f"{currency}: owed {t.owed} + held {t.held} + fees {t.fees} is not"
        f" cash {t.cash} + on creators' Stripe accounts {t.connected}"
        if t.owed + t.held + t.fees != t.cash + t.connected
        else f"{currency}: {t.negative_holds} payouts took more than was set aside for them"
        for currency, t in books.items()
        if not balanced({currency: t})
    ]


def _rows(tx: Session, *where: ColumnElement[bool]) -> Sequence[_Row]:
    P, A = Payout, PayoutAttempt
    sent = select(func.min(A.first_sent_at)).where(A.payout_id == P.id).scalar_subquery()
    columns = (P.id, P.status, P.amount, P.currency, P.destination, P.transfer_id)
    return tx.execute(select(*columns, sent.label("first_sent_at")).where(*where)).all()


def _transfers(
    stripe: StripeGateway, unmatched: Mapping[str, _Row], since: datetime | None
) -> Iterator[Transfer]:
    """The window's transfers, then the older ones of payouts that were sent before it began.

    The caller takes what it matched out of `unmatched` meanwhile.
    """
    begin = None if since is None else since - CLOCK_SKEW
    yield from stripe.list_transfers(created_gte=begin)
    if begin is None:
        return
    early = [r.id for r in unmatched.values() if r.first_sent_at is None or r.first_sent_at < begin]
    for payout_id in early:
        group = stripe.list_transfers(transfer_group=payout_id)
        # To the second: what the first list held does not come again.
        yield from (one for one in group if one.created.timestamp() < int(begin.timestamp()))


def _named(transaction: Transaction, strange: Sequence[Transfer]) -> dict[str, _Row]:
    """The payouts that the transfers name, whatever their status, by id."""
    groups = sorted({one.transfer_group for one in strange if one.transfer_group is not None})
    known = dict[str, _Row]()
    for start in range(0, len(groups), _CHUNK):
        with transaction() as tx:
            chosen = Payout.id.in_(groups[start : start + _CHUNK])
            known |= {row.id: row for row in _rows(tx, chosen)}
    return known


def _explain(
    report: Reconciliation,
    known: Mapping[str, _Row],
    strange: Sequence[Transfer],
    unmatched: dict[str, _Row],
    now: datetime,
) -> None:
    """Name the transfers that are not one of the window's paid payouts' own."""
    open_ = (PayoutStatus.REQUESTED, PayoutStatus.SENDING)
    has_one = {row.id for row in known.values() if row.transfer_id is not None}
    for one in strange:
        row = known.get(one.transfer_group or "")
        what = f"{one.amount_minor} {one.currency} to {one.destination}"
        if row is not None and row.transfer_id == one.id:
            # Paid before the window, or since it was read.
            _compare(report, row, one)
        elif one.amount_reversed_minor >= one.amount_minor:
            continue  # what it moved is back
        elif row is None:
            detail = f"{what}, and no payout {one.transfer_group!r}"
            report.add(Kind.NOT_PAID_IN_LEDGER, detail, None, one.id)
        elif unmatched.pop(row.id, None) is not None:
            detail = f"{what}, where the ledger has {row.transfer_id}, which Stripe has not"
            report.add(Kind.DIFFERS, detail, row.id, one.id)
        elif row.id in has_one:
            report.add(Kind.PAID_TWICE, f"{what}, beside {row.transfer_id}", row.id, one.id)
        elif row.status not in open_ or one.created <= now - IN_FLIGHT:
            has_one.add(row.id)
            detail = f"{what}, and the payout is {row.status}"
            report.add(Kind.NOT_PAID_IN_LEDGER, detail, row.id, one.id)


def _compare(report: Reconciliation, row: _Row, transfer: Transfer) -> None:
    wrong = differing(
        ("amount", row.amount, transfer.amount_minor),
        ("currency", row.currency, transfer.currency),
        ("destination", row.destination, transfer.destination),
    )
    if wrong:
        report.add(Kind.DIFFERS, "; ".join(wrong), row.id, transfer.id)
    if transfer.amount_reversed_minor and row.status != PayoutStatus.REVERSED:
        detail = f"{transfer.amount_reversed_minor} of {transfer.amount_minor} {transfer.currency}"
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
