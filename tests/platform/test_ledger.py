"""The money ledger: what it refuses, and that its sums are what was posted."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, func, insert, literal, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.platform.db import AnySelect
from app.platform.ledger.models import Entry
from app.platform.ledger.postings import (
    CASH,
    FEES,
    EntryKind,
    Posting,
    balanced,
    balances,
    post,
    post_select,
    trial_balance,
)
from app.switchyard.db import Database
from tests.support.earnings import balance

NOW = datetime(2025, 1, 15, 9, tzinfo=UTC)
EARNED = Posting(EntryKind.EARNING, "e1", CASH, "creator:a", "usd", 800, NOW)
FEE = Posting(EntryKind.FEE, "e1", CASH, FEES, "usd", 200, NOW)


def count(connection: Connection) -> int:
    return connection.scalar(select(func.count()).select_from(Entry)) or 0


@pytest.mark.parametrize(
    "statement",
    [
        update(Entry).values(amount=1),
        update(Entry).values(amount=Entry.amount),
        delete(Entry),
        text("DELETE FROM entries WHERE id = (SELECT max(id) FROM entries)"),
        text("TRUNCATE entries"),
    ],
)
def test_entries_are_never_changed_or_deleted(db: Database, statement: Any) -> None:
    if db.is_sqlite and str(statement).startswith("TRUNCATE"):
        pytest.skip("SQLite has no TRUNCATE")
    with db.begin() as tx:
        post(tx, [EARNED, FEE])
    with pytest.raises(DBAPIError, match="never changed"), db.begin() as tx:
        tx.execute(statement)
    with db.begin() as tx:
        assert balance(tx, CASH, "usd") == -1000


@pytest.mark.parametrize(
    "change",
    [
        {"amount": 0},
        {"amount": -5},
        {"debit": "creator:a"},
        {"currency": "USD"},
        {"currency": "us"},
        {"currency": "u1d"},
        {"currency": "usdé"},
        {"currency": ""},
    ],
)
def test_wrong_entries_are_refused_with_all_that_came_with_them(
    db: Database, change: dict[str, Any]
) -> None:
    with pytest.raises(DBAPIError), db.begin() as tx:
        post(tx, [FEE, replace(EARNED, **change)])
    with db.begin() as tx:
        assert count(tx) == 0


@pytest.mark.parametrize("amount", [1.5, "many"])
def test_sqlite_keeps_whole_numbers_only(lite: Database, amount: object) -> None:
    with pytest.raises(IntegrityError), lite.begin() as tx:
        post(tx, [replace(EARNED, amount=amount)])  # type: ignore[arg-type]


def _holds(amount: int) -> AnySelect:
    return select(
        literal("hold").label("kind"),
        Entry.ref,
        Entry.credit.label("debit"),
        (literal("hold:") + Entry.ref).label("credit"),
        Entry.currency,
        literal(amount).label("amount"),
        Entry.created_at,
    ).where(Entry.kind == EntryKind.EARNING)


def test_bulk_posting_is_one_statement_and_idempotent(db: Database) -> None:
    with db.begin() as tx:
        post(tx, [replace(EARNED, ref=f"e{n}", credit=f"creator:{n}") for n in range(50)])
        assert post_select(tx, _holds(700)) == 50
        assert post_select(tx, _holds(700)) == 0
        assert balance(tx, "creator:7", "usd") == 100
        assert trial_balance(tx)["usd"].held == 35_000
    with pytest.raises(IntegrityError, match="never changed"), db.begin() as tx:
        post_select(tx, _holds(701))


def test_the_books_name_overdrawn_holds_and_unknown_accounts(db: Database) -> None:
    settle = Posting(EntryKind.SETTLE, "p-1", "hold:p", CASH, "eur", 100, NOW)
    with db.begin() as tx:
        post(tx, [replace(settle, debit="creator:a", credit="hold:p", amount=99), settle])
        assert trial_balance(tx)["eur"].negative_holds == 1
        assert not balanced(trial_balance(tx))
    with db.begin() as tx:
        post(tx, [EARNED, replace(FEE, credit="platform:lost")])
        assert not balanced({"usd": trial_balance(tx)["usd"]})


ACCOUNTS = [
    *("creator:a", "creator:ab", "creator:B", "hold:p", "hold:q", "connected:p"),
    *(CASH, FEES),
]
POSTINGS = st.lists(
    st.builds(
        Posting,
        kind=st.sampled_from(EntryKind),
        ref=st.text("abc-1", min_size=1, max_size=4),
        debit=st.sampled_from(ACCOUNTS),
        credit=st.sampled_from(ACCOUNTS),
        currency=st.sampled_from(["usd", "jpy"]),
        amount=st.integers(1, 2**40),
        created_at=st.just(NOW),
    ).filter(lambda p: p.debit != p.credit),
    unique_by=lambda p: (p.kind, p.ref, p.debit, p.credit, p.currency),
    max_size=30,
)


@settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    max_examples=30,
)
@given(POSTINGS, st.integers(0, 30))
def test_sums_are_what_was_posted_whatever_is_repeated(
    lite: Database, postings: list[Posting], repeated: int
) -> None:
    model: dict[tuple[str, str], int] = {}
    for p in postings:
        for account, amount in ((p.credit, p.amount), (p.debit, -p.amount)):
            model[account, p.currency] = model.get((account, p.currency), 0) + amount
    with lite.engine.connect() as tx:
        post(tx, postings)
        post(tx, postings[:repeated])
        assert count(tx) == len(postings)
        summed = {(r.account, r.currency): r.amount for r in tx.execute(select(balances()))}
        assert summed == model
        assert all(balance(tx, *key) == amount for key, amount in model.items())
        begun = {k: v for k, v in model.items() if k[0].startswith("creator:")}
        rows = tx.execute(select(balances("creator:")))
        assert {(r.account, r.currency): r.amount for r in rows} == begun
        for currency, books in trial_balance(tx).items():
            assert sum(v for k, v in model.items() if k[1] == currency) == 0
            assert books.owed + books.held + books.fees == books.cash + books.connected
        if postings:
            with pytest.raises(IntegrityError):
                tx.execute(insert(Entry).values(**_columns(postings[0])))
        tx.rollback()


def _columns(posting: Posting) -> dict[str, Any]:
    return {name: getattr(posting, name) for name in Posting.__slots__}
