"""Sales, refunds and disputes in the books."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, delete, event, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from app.platform.earnings.models import Creator, Earning, EarningKind
from app.platform.earnings.posting import post_earnings
from app.platform.ledger.models import Entry
from app.platform.ledger.postings import CASH, FEES, balanced, trial_balance
from app.switchyard.db import Database
from tests.support.earnings import (
    Change,
    Sale,
    a_creator,
    balance,
    record_change,
    record_sale,
)

NOW = datetime(2025, 1, 15, 9, tzinfo=UTC)
SALE = Sale("s1", "ana", "tips", "usd", 1_000, 200, NOW)
PART = Change("c1", "s1", "usd", 300, 60, NOW)


@pytest.fixture(autouse=True)
def creators(db: Database) -> None:
    with db.begin() as tx:
        tx.execute(insert(Creator), [a_creator("ana"), a_creator("bo")])


def written(tx: Connection) -> tuple[list[Any], list[Any]]:
    earnings = tx.execute(select(Earning).order_by(Earning.id)).all()
    return list(earnings), list(tx.execute(select(Entry).order_by(Entry.id)).all())


def entries(tx: Connection) -> set[tuple[str, str, str, str, int]]:
    rows = tx.execute(select(Entry.kind, Entry.ref, Entry.debit, Entry.credit, Entry.amount))
    return {(row[0], row[1], row[2], row[3], row[4]) for row in rows}


def test_each_is_written_and_posted_at_once(db: Database) -> None:
    with db.begin() as tx:
        record_sale(tx, SALE)
        record_change(tx, replace(PART, id="r1"), EarningKind.REFUND)
        disputed = replace(PART, id="d1", gross=700, fee=140)
        record_change(tx, disputed, EarningKind.DISPUTE)
        won = replace(PART, id="w1", gross=200, fee=40)
        record_change(tx, won, EarningKind.DISPUTE_WON)
        assert entries(tx) == {
            ("earning", "s1", CASH, "creator:ana", 800),
            ("fee", "s1", CASH, FEES, 200),
            ("refund", "r1", "creator:ana", CASH, 240),
            ("fee_refund", "r1", FEES, CASH, 60),
            ("dispute", "d1", "creator:ana", CASH, 560),
            ("fee_dispute", "d1", FEES, CASH, 140),
            ("dispute_won", "w1", CASH, "creator:ana", 160),
            ("fee_dispute_won", "w1", CASH, FEES, 40),
        }
        rows = tx.execute(select(Earning.kind, Earning.creator_id, Earning.source, Earning.posted))
        assert set(rows) == {
            (kind, "ana", "tips", True) for kind in ("earning", "refund", "dispute", "dispute_won")
        }
        assert post_earnings(tx) == 0
        assert balanced(trial_balance(tx))


def foreign(number: int) -> dict[str, Any]:
    """An earning that is not posted yet."""
    when = NOW - timedelta(days=number)
    sale = replace(SALE, id=f"f{number}", gross=100, fee=20, occurred_at=when)
    return {**asdict(sale), "kind": EarningKind.EARNING}


def test_what_others_wrote_is_posted_once_whenever_it_happened(db: Database) -> None:
    with db.begin() as tx:
        record_sale(tx, SALE)
        tx.execute(insert(Earning), [foreign(0), foreign(400)])
        # As another program would, which knows of no such column.
        tx.execute(
            text(
                "INSERT INTO earnings (id, creator_id, source, kind, currency, gross, fee,"
                " refund_of, occurred_at) VALUES ('x', 'ana', 'tips', 'refund', 'usd', 50, 10,"
                " 'f0', '2025-01-01 00:00:00')"
            )
        )
        assert post_earnings(tx) == 6
        assert balance(tx, "creator:ana", "usd") == 800 + 80 + 80 - 40
        before = written(tx)
        assert post_earnings(tx) == 0
        assert written(tx) == before
        assert all(row.posted for row in before[0])


def test_what_comes_in_while_it_posts_waits_for_the_next_time(db: Database) -> None:
    if db.is_sqlite:
        pytest.skip("SQLite has one writer: nothing comes in")
    late: list[int] = []

    def come_in(*args: Any) -> None:
        if str(args[2]).startswith("UPDATE earnings") and not late:
            late.append(1)
            with db.begin() as other:
                other.execute(insert(Earning), [foreign(2)])

    with db.begin() as tx:
        tx.execute(insert(Earning), [foreign(1)])
    event.listen(db.engine, "before_cursor_execute", come_in)
    with db.begin() as tx:
        assert post_earnings(tx) == 2
    event.remove(db.engine, "before_cursor_execute", come_in)
    assert late
    with db.begin() as tx:
        assert list(tx.scalars(select(Earning.id).where(~Earning.posted))) == ["f2"]
        assert post_earnings(tx) == 2
        assert balance(tx, "creator:ana", "usd") == 160


def test_a_posted_earning_stays_as_it_is(db: Database) -> None:
    with db.begin() as tx:
        record_sale(tx, SALE)
        tx.execute(insert(Earning), [foreign(1)])
    statements: list[Any] = [
        update(Earning).where(Earning.id == "s1").values(occurred_at=NOW - timedelta(days=9)),
        update(Earning).where(Earning.id == "s1").values(posted=False),
        update(Earning).values(gross=5, fee=0),
        delete(Earning).where(Earning.id == "s1"),
    ]
    if not db.is_sqlite:
        statements.append(text("TRUNCATE earnings CASCADE"))
    for statement in statements:
        with pytest.raises(DBAPIError, match="never changed or deleted"), db.begin() as tx:
            tx.execute(statement)
    with db.begin() as tx:
        tx.execute(update(Earning).where(Earning.id == "f1").values(gross=50, fee=0))
        assert post_earnings(tx) == 1
        tx.execute(delete(Earning).where(Earning.id == "none"))
        assert balance(tx, "creator:ana", "usd") == 850
