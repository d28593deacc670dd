"""Posts entries and reads balances. Amounts are in minor units; a balance is credits − debits.

Liabilities (`creator:…`, `hold:…`) and income (`platform:fees`) are therefore positive, and assets
(`platform:cash`, and `connected:…` on its way to a creator's bank) negative. The balances of all
accounts in a currency sum to zero.
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
"""Followed by a creator's id: the amount owed to them."""
HOLD = "hold:"
"""Followed by a payout's id: the amount set aside for it."""
CONNECTED = "connected:"
"""Followed by a payout's id: the part of it that is on the creator's Stripe account."""

_KEY = ("kind", "ref", "debit", "credit", "currency")
_COLUMNS = (*_KEY, "amount", "created_at")


class EntryKind(StrEnum):
    """The kind of cause of an entry. Its `ref` identifies the cause."""

    EARNING = "earning"
    FEE = "fee"
    REFUND = "refund"
    FEE_REFUND = "fee_refund"
    DISPUTE = "dispute"
    """A fan's bank took a sale back: the creator's share, creator → cash."""
    FEE_DISPUTE = "fee_dispute"
    DISPUTE_WON = "dispute_won"
    """The bank returned the money: cash → creator."""
    FEE_DISPUTE_WON = "fee_dispute_won"
    HOLD = "hold"
    """A payout was requested: creator → hold."""
    RELEASE = "release"
    """A payout failed, or its transfer was reversed: hold → creator."""
    TRANSFER = "transfer"
    """A payout's money moved to the creator's Stripe account: connected → cash."""
    SETTLE = "settle"
    """The money is at the creator's bank: hold → connected."""
    RETURN = "return"
    """The bank returned the money to the creator's Stripe account: connected → hold."""
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
    """Post entries, all or none. An existing one changes nothing.

    Raises sqlalchemy.exc.IntegrityError for an invalid entry, and for an existing one with another
    amount, since it would be updated, which the guards refuse.
    """
    rows = [asdict(posting) for posting in postings]
    if rows:
        connection_of(tx).execute(_once(insert(tx, E)), rows)


def post_select(tx: Tx, source: AnySelect) -> int:
    """Post the rows of `source` (kind, ref, debit, credit, currency, amount, created_at) in one
    statement. Returns how many were new. Existing entries and errors are treated as in post()."""
    # SQLite's parser takes ON CONFLICT for a join's ON where the SELECT has no WHERE.
    rows = sa.select(*source.subquery().c).where(sa.true())
    new = _once(insert(tx, E).from_select(_COLUMNS, rows))
    return connection_of(tx).execute(new, execution_options=COUNTED).rowcount


def _once(new: Insert) -> Insert:
    """Ignore an existing entry, but update one with another amount, for the guards to refuse."""
    return new.on_conflict_do_update(
        index_elements=list(_KEY),
        set_={"amount": new.excluded.amount},
        where=E.amount != new.excluded.amount,
    )


def balances(prefix: str = "") -> sa.Subquery:
    """Account, currency and balance (`amount`) of every account that begins with `prefix`."""
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
    """The books of one currency, in minor units."""

    owed: int
    held: int
    fees: int
    cash: int
    """The amount that the platform's Stripe balance should have."""
    connected: int
    """The amount on creators' Stripe accounts from payouts that are not at the bank yet."""
    negative_holds: int
    """The number of payouts that took more than was set aside for them."""

    @property
    def balanced(self) -> bool:
        """Whether assets equal what is owed, held and earned, and no hold is overdrawn.

        Every entry balances by itself, but this also finds money in an unknown account.
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
