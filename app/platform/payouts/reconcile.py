"""Compares the ledger with Stripe's own lists, in both directions, for both legs of payouts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Row, cast, func, select
from sqlalchemy.orm import Session

from app.platform.gateways.stripe import StripeGateway
from app.platform.gateways.stripe_answers import BankPayout, StripeRefused, Transfer
from app.platform.ledger.postings import Totals, trial_balance
from app.platform.payouts.differences import Kind, Reconciliation
from app.platform.payouts.legs import BANK, CLOCK_SKEW, TRANSFER, Leg
from app.platform.payouts.models import Payout, PayoutAttempt, PayoutStatus
from app.switchyard.words import plural

WINDOW = timedelta(days=30)
IN_FLIGHT = timedelta(minutes=2)
"""How long an object at Stripe may wait for its record: a call's 20 s and a slow commit."""
AnyRow = Row[*tuple[Any, ...]]
Transaction = Callable[[], AbstractContextManager[Session]]


def reconcile(
    transaction: Transaction,
    stripe: StripeGateway,
    now: datetime,
    since: datetime,
    *,
    banks: bool = True,
) -> Reconciliation:
    """Compare what was paid from `since` on, and the present cash and books.

    With `banks`, bank payouts are compared too, with a call per account. No transaction is open
    during calls to Stripe. What is paid meanwhile is not reported: the ledger is read before
    Stripe's list, and again for every transfer that it did not explain. All payouts of the window
    are held in memory. Raises what the gateway raises.
    """
    # Stripe's times are in whole seconds.
    both = _Both(transaction, stripe, now, since.replace(microsecond=0))
    both.compare_transfers()
    if banks:
        both.compare_banks()
    # A payout may be recorded between the two reads: only a difference that persists counts.
    books, wrong = both.cash()
    books, wrong = both.cash() if wrong else (books, wrong)
    for detail in unbalanced(books):
        both.report.add(Kind.BOOKS_UNBALANCED, detail)
    for detail in wrong:
        both.report.add(Kind.CASH_DIFFERS, detail)
    return both.report


def unheard(
    transaction: Transaction, stripe: StripeGateway, now: datetime, since: datetime
) -> list[BankPayout]:
    """The bank payouts whose status at Stripe is newer: a webhook is late or was lost."""
    both = _Both(transaction, stripe, now, since.replace(microsecond=0))
    both.compare_banks()
    return both.unheard


def unbalanced(books: Mapping[str, Totals]) -> list[str]:
    """A sentence for each currency whose books do not balance."""
    return [
        f"{currency}: {plural(t.negative_holds, 'payout')} took more than was set aside"
        if t.negative_holds
        else f"{currency}: owed {t.owed} + held {t.held} + fees {t.fees} is not"
        f" cash {t.cash} + on creators' Stripe accounts {t.connected}"
        for currency, t in books.items()
        if not t.balanced
    ]


class _Both:
    """The ledger and Stripe, and their differences."""

    def __init__(
        self, transaction: Transaction, stripe: StripeGateway, now: datetime, since: datetime
    ) -> None:
        self.report, self.unheard = Reconciliation(), list[BankPayout]()
        self._transaction, self._stripe = transaction, stripe
        self._now, self._since = now, since

    def compare_transfers(self) -> None:
        """Compare the transfers, including those without a payout."""
        begin = self._since - CLOCK_SKEW
        with self._transaction() as tx:
            paid = (Payout.transfer_id.is_not(None), Payout.updated_at >= self._since)
            ours = {row.id: row for row in _rows(tx, TRANSFER, *paid)}
        theirs = {one.id: one for one in self._stripe.list_transfers(created_gte=begin)}
        self.report.payouts = len(ours)
        self.report.transfers = sum(one.created >= self._since for one in theirs.values())
        for row in ours.values():
            early = row.first_sent_at is None or row.first_sent_at < begin
            if early and row.transfer_id not in theirs:
                its = self._stripe.list_transfers(transfer_group=row.id)
                theirs |= {one.id: one for one in its}
        groups = defaultdict[str | None, list[Transfer]](list)
        for one in theirs.values():
            groups[one.transfer_group].append(one)
        explained = {row.transfer_id for row in ours.values()}
        unclear = {one.transfer_group for one in theirs.values() if one.id not in explained}
        with self._transaction() as tx:
            ours |= {row.id: row for row in _rows(tx, TRANSFER, Payout.id.in_(unclear))}
        for row in ours.values():
            self._compare(TRANSFER, row, groups.pop(row.id, []))
        for group, strange in groups.items():
            for one in strange:
                if not one.came_back:
                    detail = f"{_moved(one)} to {one.destination}, and no payout {group!r}"
                    self.report.add(Kind.NOT_PAID_IN_LEDGER, detail, None, one.id)

    def compare_banks(self) -> None:
        """Compare bank payouts that name a payout; creators also make bank payouts of their own."""
        accounts = defaultdict[str, list[AnyRow]](list)
        with self._transaction() as tx:
            for row in _rows(tx, BANK, Payout.updated_at >= self._since):
                if row.first_sent_at is not None:
                    accounts[row.destination].append(row)

        def listed(account: str) -> list[BankPayout]:
            first = min(row.first_sent_at for row in accounts[account]) - CLOCK_SKEW
            try:
                return list(self._stripe.list_payouts(account, first))
            except StripeRefused:
                return []  # the account is gone: each of its payouts is reported as missing

        names = sorted(accounts)
        for account, banks in zip(names, self._stripe.each(listed, names), strict=True):
            for row in accounts[account]:
                own = [bank for bank in banks if bank.metadata.get("payout_id") == row.id]
                self._compare(BANK, row, own)

    def _compare(self, leg: Leg, row: AnyRow, there: Sequence[Transfer | BankPayout]) -> None:
        """Compare a payout with Stripe's objects for it. Only the one that the ledger has may have
        moved its money without returning it."""
        own_id = getattr(row, leg.column)
        own = next((one for one in there if one.id == own_id), None)
        others = [one for one in there if one is not own and not one.came_back]
        if own is not None:
            self._compare_own(leg, row, own)
        elif own_id is not None and not others:
            what = f"{_moved(row)} {leg.way} {row.destination}, but no such {leg.what}"
            self.report.add(leg.missing, what, row.id, own_id)
        if others and (own is None or own.came_back):
            first, *others = others
            begun = row.status in (leg.ready, leg.sending)
            if own_id is not None and own is None:
                detail = f"{_moved(first)}, where the ledger has {own_id}, which Stripe has not"
                self.report.add(leg.differs, detail, row.id, first.id)
            elif not begun or first.created <= self._now - IN_FLIGHT:
                detail = f"{_moved(first)}, and the payout is {row.status}"
                self.report.add(leg.not_in_ledger, detail, row.id, first.id)
            own = first
        for one in others:
            assert own is not None
            self.report.add(Kind.PAID_TWICE, f"{_moved(one)}, beside {own.id}", row.id, one.id)

    def _compare_own(self, leg: Leg, row: AnyRow, own: Transfer | BankPayout) -> None:
        wrong = [
            f"{name} {getattr(row, name)} in the ledger, {getattr(own, name)} at Stripe"
            for name in ("amount", "currency", "destination")
            if hasattr(own, name) and getattr(row, name) != getattr(own, name)
        ]
        if isinstance(own, BankPayout):
            on_its_way = row.status in (PayoutStatus.IN_TRANSIT, PayoutStatus.PAID)
            # Paid at Stripe but in transit in the ledger only means that the news has not arrived.
            unheard = own.status == "paid" and row.status == PayoutStatus.IN_TRANSIT
            if unheard or (on_its_way and own.came_back):
                self.unheard.append(own)
            if on_its_way == own.came_back:
                wrong.append(f"{row.status} in the ledger, {own.status} at Stripe")
        elif own.amount_reversed and row.status != PayoutStatus.REVERSED:
            detail = f"{own.amount_reversed} of {_moved(own)}"
            self.report.add(Kind.REVERSED, detail, row.id, own.id)
        if wrong:
            self.report.add(leg.differs, "; ".join(wrong), row.id, own.id)

    def cash(self) -> tuple[Mapping[str, Totals], list[str]]:
        """The books, and a sentence for each currency whose cash differs from Stripe's balance.

        Money that is being sent may or may not have left that balance.
        """
        total = cast(func.sum(Payout.amount), BigInteger)
        chosen = select(Payout.currency, total).where(Payout.status == PayoutStatus.SENDING)
        with self._transaction() as tx:
            books = trial_balance(tx)
            sending = {row[0]: row[1] for row in tx.execute(chosen.group_by(Payout.currency))}
        available = self._stripe.platform_balance().total
        wrong = list[str]()
        for currency in sorted(books.keys() | available.keys()):
            cash = books[currency].cash if currency in books else 0
            has, may = available.get(currency, 0), sending.get(currency, 0)
            if not cash - may <= has <= cash:
                less = f" (of it {may} being sent)" if may else ""
                wrong.append(f"the ledger's cash is {cash} {currency}{less}, Stripe's {has}")
        return books, wrong


def _rows(tx: Session, leg: Leg, *where: ColumnElement[bool]) -> Sequence[AnyRow]:
    """The columns of payouts to compare, and when the first attempt at their leg was sent."""
    A, P = PayoutAttempt, Payout
    tried = select(func.min(A.first_sent_at)).where(A.payout_id == P.id, A.leg == leg.name)
    columns = (P.id, P.status, P.amount, P.currency, P.destination, P.transfer_id, P.bank_payout_id)
    sent = tried.scalar_subquery().label("first_sent_at")
    return tx.execute(select(*columns, sent).where(*where)).all()


def _moved(one: Transfer | BankPayout | AnyRow) -> str:
    return f"{one.amount} {one.currency}"
