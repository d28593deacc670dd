"""Posting entries and reading balances. Amounts are minor units; a balance is credits − debits.

So what is owed (`creator:…`, `hold:…`) and earned (`platform:fees`) is positive, and what is there
(`platform:cash`, and `connected:…` on its way to a creator's bank) negative: over all accounts of a
currency the balances sum to zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from app.platform.db import COUNTED, AnySelect, Tx, connection_of, insert
from app.platform.ledger.models import Entry as E
from app.switchyard.db import Insert

CASH = "platform:cash"
FEES = "platform:fees"
CREATOR = "creator:"
"""And a creator's id: what is owed to them."""
HOLD = "hold:"
"""And a payout's id: what is set aside for it."""
CONNECTED = "connected:"
"""And a payout's id: what of it is on the creator's Stripe account."""

_KEY = ("kind", "ref", "debit", "credit", "currency")
_COLUMNS = (*_KEY, "amount", "created_at")


class EntryKind(StrEnum):
    """What caused an entry; its `ref` names which one."""

    EARNING = "earning"
    FEE = "fee"
    REFUND = "refund"
    FEE_REFUND = "fee_refund"
    DISPUTE = "dispute"
    """A fan's bank took a sale back: the creator's share, creator → cash."""
    FEE_DISPUTE = "fee_dispute"
    DISPUTE_WON = "dispute_won"
    """The bank gave it again: cash → creator."""
    FEE_DISPUTE_WON = "fee_dispute_won"
    HOLD = "hold"
    """A payout was requested: creator → hold."""
    RELEASE = "release"
    """A payout failed, or its transfer was reversed: hold → creator."""
    TRANSFER = "transfer"
    """Stripe moved it to the creator's Stripe account: connected → cash."""
    SETTLE = "settle"
    """It is at the creator's bank: hold → connected."""
    RETURN = "return"
    """The bank sent it back to the creator's Stripe account: connected → hold."""
    REVERSAL = "reversal"
    """A transfer was reversed: cash → connected."""


@dataclass(frozen=True, slots=True)
class Posting:
    """An entry to be posted."""

    kind: EntryKind
    ref: str
    debit: str
    credit: str
    currency: str
    amount: int
    created_at: datetime


def post(tx: Tx, postings: Iterable[Posting]) -> None:
    """Post entries, all or none. One that is there already changes nothing.

    Raises sqlalchemy.exc.IntegrityError for a wrong entry, and for a known one whose amount
    differs: it would have to be updated, which the guards refuse.
    """
    rows = [asdict(posting) for posting in postings]
    if rows:
        connection_of(tx).execute(_once(insert(tx, E)), rows)


def post_select(tx: Tx, source: AnySelect) -> int:
    """Post what `source` selects (kind, ref, debit, credit, currency, amount, created_at).

    One statement; how many were new. As post() with what is known already, and its errors.
    """
    # SQLite's parser takes ON CONFLICT for a join's ON where the SELECT has no WHERE.
    rows = sa.select(*source.subquery().c).where(sa.true())
    new = _once(insert(tx, E).from_select(_COLUMNS, rows))
    return connection_of(tx).execute(new, execution_options=COUNTED).rowcount


def _once(new: Insert) -> Insert:
    """Known with the same amount: nothing. With another one: an update, for the guards to refuse"""
    return new.on_conflict_do_update(
        index_elements=list(_KEY),
        set_={"amount": new.excluded.amount},
        where=E.amount != new.excluded.amount,
    )


def balances(prefix: str = "") -> sa.Subquery:
    """Account, currency and balance (`amount`) of every account whose name begins with `prefix`."""
    moved = sa.func.sum(E.amount)
    sides = sa.union_all(
        *(
            sa.select(side.label("account"), E.currency, total.label("amount"))
            .where(_begins(side, prefix))
            .group_by(side, E.currency)
            for side, total in ((E.credit, moved), (E.debit, -moved))
        )
    ).subquery()
    s = sides.c
    # Postgres sums integers to a numeric.
    total = sa.cast(sa.func.sum(s.amount), sa.BigInteger).label("amount")
    return sa.select(s.account, s.currency, total).group_by(s.account, s.currency).subquery()


def _begins(column: sa.SQLColumnExpression[str], prefix: str) -> sa.ColumnElement[bool]:
    # A range, not LIKE: SQLite's LIKE ignores case and so cannot use the index.
    if not prefix:
        return sa.true()
    return sa.and_(column >= prefix, column < prefix[:-1] + chr(ord(prefix[-1]) + 1))


@dataclass(frozen=True, slots=True)
class Totals:
    """One currency's books, minor units."""

    owed: int
    held: int
    fees: int
    cash: int
    """What the platform's Stripe balance should hold."""
    connected: int
    """What creators' Stripe accounts hold of payouts that are not at the bank yet."""
    negative_holds: int
    """Payouts that took more than was set aside for them."""

    @property
    def balanced(self) -> bool:
        """Whether what is there is exactly what is owed, held and earned, and no hold is overdrawn.

        Debits equal credits by an entry's shape; this also finds money in an account nobody knows.
        """
        whole = self.owed + self.held + self.fees == self.cash + self.connected
        return whole and not self.negative_holds


def trial_balance(tx: Tx) -> dict[str, Totals]:
    """The whole ledger, summed by currency and class of account."""
    a = balances().c

    def total(what: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.cast(sa.func.sum(sa.case((what, a.amount), else_=0)), sa.BigInteger)

    held = _begins(a.account, HOLD)
    rows = connection_of(tx).execute(
        sa.select(
            a.currency,
            total(_begins(a.account, CREATOR)),
            total(held),
            total(a.account == FEES),
            -total(a.account == CASH),
            -total(_begins(a.account, CONNECTED)),
            sa.func.count(sa.case((sa.and_(held, a.amount < 0), 1))),
        )
        .group_by(a.currency)
        .order_by(a.currency)
    )
    return {row[0]: Totals(*row[1:]) for row in rows}


def balanced(books: Mapping[str, Totals]) -> bool:
    """Whether the books of every currency balance."""
    return all(totals.balanced for totals in books.values())
