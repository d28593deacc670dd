"""Posting entries and reading balances. Amounts are minor units; a balance is credits − debits.

So what is owed (`creator:…`, `hold:…`) and earned (`platform:fees`) is positive, and what is there
(`platform:cash`) negative: over all accounts of a currency the balances sum to zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    Subquery,
    and_,
    case,
    func,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.ledger.models import Entry as E
from app.ledger.models import entries

CASH = "platform:cash"
FEES = "platform:fees"
CREATOR = "creator:"
HOLD = "hold:"

Tx = Session | Connection

_KEY = ("kind", "ref", "debit", "credit", "currency")
_COLUMNS = (*_KEY, "amount", "created_at")
INSERT = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""INSERT with ON CONFLICT, by dialect."""


class EntryKind(StrEnum):
    """What caused an entry; its `ref` names which one."""

    EARNING = "earning"
    FEE = "fee"
    REFUND = "refund"
    FEE_REFUND = "fee_refund"
    HOLD = "hold"
    """A payout was requested: creator → hold."""
    RELEASE = "release"
    """A payout failed: hold → creator."""
    SETTLE = "settle"
    """A payout was paid: hold → cash."""


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


def creator_account(creator_id: str) -> str:
    """What is owed to a creator."""
    return f"{CREATOR}{creator_id}"


def hold_account(payout_id: str) -> str:
    """What is set aside for a payout."""
    return f"{HOLD}{payout_id}"


def connection_of(tx: Tx) -> Connection:
    """The transaction's connection."""
    return tx.connection() if isinstance(tx, Session) else tx


def post(tx: Tx, postings: Iterable[Posting]) -> None:
    """Post entries, all or none. One that is there already changes nothing.

    Raises sqlalchemy.exc.IntegrityError for a wrong entry, and for a known one whose amount
    differs: it would have to be updated, which the guards refuse.
    """
    rows = [asdict(posting) for posting in postings]
    if rows:
        connection = connection_of(tx)
        connection.execute(_once(INSERT[connection.dialect.name](entries)), rows)


def post_select(tx: Tx, source: Select[Any]) -> int:
    """Post what `source` selects (kind, ref, debit, credit, currency, amount, created_at).

    One statement; how many were new. As post() with what is known already, and its errors.
    """
    connection = connection_of(tx)
    # SQLite's parser takes ON CONFLICT for a join's ON where the SELECT has no WHERE.
    rows = select(*source.subquery().c).where(true())
    insert = INSERT[connection.dialect.name](entries).from_select(_COLUMNS, rows)
    return connection.execute(_once(insert)).rowcount


def _once(insert: sqlite.Insert | postgresql.Insert) -> sqlite.Insert | postgresql.Insert:
    """Known with the same amount: nothing. With another one: an update, for the guards to refuse"""
    return insert.on_conflict_do_update(
        index_elements=list(_KEY),
        set_={"amount": insert.excluded.amount},
        where=entries.c.amount != insert.excluded.amount,
    )


def balance(tx: Tx, account: str, currency: str) -> int:
    """Credits − debits of one account, minor units."""
    credits, debits = (
        select(func.coalesce(func.sum(E.amount), 0))
        .where(side == account, E.currency == currency)
        .scalar_subquery()
        for side in (E.credit, E.debit)
    )
    return int(connection_of(tx).scalar(select(credits - debits)) or 0)


def balances(prefix: str) -> Subquery:
    """Account, currency and balance (`amount`) of every account whose name begins with `prefix`."""
    sides = union_all(
        _summed(E.credit, func.sum(E.amount), prefix), _summed(E.debit, -func.sum(E.amount), prefix)
    ).subquery()
    return (
        select(
            sides.c.account,
            sides.c.currency,
            # Postgres sums integers to a numeric.
            sql_cast(func.sum(sides.c.amount), BigInteger).label("amount"),
        )
        .group_by(sides.c.account, sides.c.currency)
        .subquery()
    )


def _summed(
    side: InstrumentedAttribute[str], total: ColumnElement[int], prefix: str
) -> Select[Any]:
    return (
        select(side.label("account"), E.currency, total.label("amount"))
        .where(_begins(side, prefix))
        .group_by(side, E.currency)
    )


def _begins(column: InstrumentedAttribute[str], prefix: str) -> ColumnElement[bool]:
    # A range, not LIKE: SQLite's LIKE ignores case and so cannot use the index.
    return and_(column >= prefix, column < prefix[:-1] + chr(ord(prefix[-1]) + 1))


@dataclass(frozen=True, slots=True)
class Totals:
    """One currency's sums, minor units."""

    debits: int
    credits: int
    owed: int
    held: int
    fees: int
    cash: int
    """What the platform's Stripe balance should hold."""


@dataclass(frozen=True, slots=True)
class TrialBalance:
    """Whether the books hold."""

    totals: dict[str, Totals]
    """By currency."""
    negative_holds: tuple[str, ...]

    @property
    def balanced(self) -> bool:
        """Debits equal credits, cash covers exactly what is owed, held and earned, and no payout
        took more than was set aside for it."""
        return not self.negative_holds and all(
            t.debits == t.credits and t.owed + t.held + t.fees == t.cash
            for t in self.totals.values()
        )


def trial_balance(tx: Tx) -> TrialBalance:
    """The whole ledger summed by currency and class of account."""
    connection = connection_of(tx)
    sides = union_all(
        *(
            select(_class_of(side).label("name"), E.currency, func.sum(E.amount).label("amount"))
            .add_columns(func.sum(E.amount * sign).label("net"))
            .group_by(_class_of(side), E.currency)
            for side, sign in ((E.credit, 1), (E.debit, -1))
        )
    ).subquery()
    s = sides.c
    net = func.sum(s.net)

    def of(name: str) -> ColumnElement[int]:
        return func.sum(case((s.name == name, s.net), else_=0))

    rows = connection.execute(
        select(
            s.currency,
            func.sum(case((s.net < 0, s.amount), else_=0)),
            func.sum(case((s.net > 0, s.amount), else_=0)),
            of("owed"),
            of("held"),
            of("fees"),
            -of("cash"),
        )
        .group_by(s.currency)
        .order_by(s.currency)
    )
    totals = {row[0]: Totals(*(int(value) for value in row[1:])) for row in rows}
    holds = balances(HOLD)
    negative = select(holds.c.account).where(holds.c.amount < 0).order_by(holds.c.account)
    return TrialBalance(totals, tuple(connection.scalars(negative)))


def _class_of(side: InstrumentedAttribute[str]) -> ColumnElement[str]:
    return case(
        (_begins(side, CREATOR), "owed"),
        (_begins(side, HOLD), "held"),
        (side == CASH, "cash"),
        (side == FEES, "fees"),
        else_="other",
    )
