"""Sales, refunds and disputes: what is recorded, what is refused, and that the books follow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, event, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from app.platform.config import Settings
from app.platform.currencies import MAX_AMOUNT
from app.platform.earnings.models import Creator, Earning, EarningKind
from app.platform.earnings.posting import post_earnings
from app.platform.earnings.record import (
    Change,
    EarningRefused,
    Sale,
    record_dispute,
    record_dispute_won,
    record_refund,
    record_sale,
)
from app.platform.ledger.models import Entry
from app.platform.ledger.postings import CASH, FEES, balance, balanced, trial_balance
from app.switchyard.db import Database
from app.switchyard.errors import BadInput
from tests.support.tables import create_all

NOW = datetime(2025, 1, 15, 9, tzinfo=UTC)
SALE = Sale("s1", "ana", "tips", "usd", 1_000, 200, NOW)
PART = Change("c1", "s1", "usd", 300, 60, NOW)
WHOLE = replace(PART, gross=1_000, fee=200)
RECORD: dict[str, Callable[[Connection, Change], bool]] = {
    "refund": record_refund,
    "dispute": record_dispute,
    "dispute_won": record_dispute_won,
}


def creator(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "email": f"{name}@example.com",
        "country": "US",
        "currency": "usd",
        "stripe_account_id": f"acct_{name}",
        "payouts_enabled": True,
        "transfers_active": True,
        "created_at": NOW,
    }


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    made = Database(Settings(database_url=database_url).sqlalchemy_url)
    create_all(made.engine)
    with made.begin() as tx:
        tx.execute(insert(Creator), [creator("ana"), creator("bo")])
    yield made
    made.dispose()


def written(tx: Connection) -> tuple[list[Any], list[Any]]:
    earnings = tx.execute(select(Earning).order_by(Earning.id)).all()
    return list(earnings), list(tx.execute(select(Entry).order_by(Entry.id)).all())


def entries(tx: Connection) -> set[tuple[str, str, str, str, int]]:
    rows = tx.execute(select(Entry.kind, Entry.ref, Entry.debit, Entry.credit, Entry.amount))
    return {(row[0], row[1], row[2], row[3], row[4]) for row in rows}


# --- what is written ----------------------------------------------------------------------------


def test_each_is_written_and_posted_at_once(db: Database) -> None:
    with db.begin() as tx:
        assert record_sale(tx, SALE)
        assert record_refund(tx, replace(PART, id="r1"))
        assert record_dispute(tx, replace(PART, id="d1", gross=700, fee=140))
        assert record_dispute_won(tx, replace(PART, id="w1", gross=200, fee=40))
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


@pytest.mark.parametrize(("fee", "kinds"), [(0, {"earning"}), (1_000, {"fee"})])
def test_nobody_s_part_makes_no_entry(db: Database, fee: int, kinds: set[str]) -> None:
    with db.begin() as tx:
        record_sale(tx, replace(SALE, fee=fee))
        assert {row[0] for row in entries(tx)} == kinds
        assert tx.scalar(select(Earning.posted)) is True


def test_the_same_again_changes_nothing(db: Database) -> None:
    with db.begin() as tx:
        record_sale(tx, SALE)
        record_dispute(tx, WHOLE)
        before = written(tx)
        later = timedelta(hours=1)
        elsewhere = NOW.astimezone(timezone(timedelta(hours=5, minutes=45)))
        assert not record_sale(tx, SALE)
        assert not record_sale(tx, replace(SALE, occurred_at=elsewhere))
        assert not record_dispute(tx, WHOLE)
        for other in (
            *(replace(SALE, gross=999), replace(SALE, fee=1), replace(SALE, source="calls")),
            *(replace(SALE, creator_id="bo"), replace(SALE, currency="eur")),
            *(replace(SALE, occurred_at=NOW + later), replace(SALE, id="c1")),
        ):
            with pytest.raises(EarningRefused, match="is recorded with"):
                record_sale(tx, other)
        with pytest.raises(EarningRefused, match="c1 is recorded with kind dispute, not refund"):
            record_refund(tx, WHOLE)
        assert written(tx) == before


# --- what is refused ----------------------------------------------------------------------------

WRONG_SALES: list[tuple[dict[str, Any], str]] = [
    ({"gross": 0}, "gross must be a whole number"),
    ({"gross": -5}, "gross must be"),
    ({"gross": 10.0}, "gross must be"),
    ({"gross": True, "fee": 0}, "gross must be"),
    ({"gross": "10"}, "gross must be"),
    ({"gross": MAX_AMOUNT + 1}, "at most 999999999999"),
    ({"fee": -1}, "fee must be"),
    ({"fee": 0.5}, "fee must be"),
    ({"fee": False}, "fee must be"),
    ({"fee": 1_001}, "a fee of 1001 is more than"),
    ({"currency": "xyz"}, "'xyz' is not supported"),
    ({"currency": "USD"}, "'USD' is not supported"),
    ({"id": ""}, "id must be 1 to 64"),
    ({"id": "x" * 65}, "id must be 1 to 64"),
    ({"id": "a\x00"}, "id must be 1 to 64"),
    ({"occurred_at": datetime(2025, 1, 1)}, "no time zone"),  # noqa: DTZ001
]
ONLY_SALES: list[tuple[dict[str, Any], str]] = [
    ({"creator_id": "cleo"}, "no creator 'cleo'"),
    ({"creator_id": ""}, "creator must be"),
    ({"source": "x" * 41}, "source must be"),
]
ONLY_CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"sale_id": "s9"}, "no sale 's9'"),
    ({"sale_id": "r0"}, "no sale 'r0'"),
    ({"currency": "eur"}, "sale s1 is in usd, not eur"),
    ({"gross": 1_001}, "of which"),
    ({"gross": 901, "fee": 1}, "of which"),
    ({"gross": 500, "fee": 201}, "of which"),
]


def test_a_sale_that_makes_no_sense(db: Database) -> None:
    with db.begin() as tx:
        for change, says in [*WRONG_SALES, *ONLY_SALES]:
            with pytest.raises(BadInput, match=says):
                record_sale(tx, replace(SALE, **change))
        assert written(tx) == ([], [])


@pytest.mark.parametrize("kind", RECORD)
def test_a_change_that_makes_no_sense(db: Database, kind: str) -> None:
    with db.begin() as tx:
        record_sale(tx, SALE)
        record_refund(tx, replace(PART, id="r0", gross=100, fee=0))
        if kind == "dispute_won":
            record_dispute(tx, replace(WHOLE, id="d0", gross=900, fee=200))
        before = written(tx)
        for change, says in [*WRONG_SALES, *ONLY_CHANGES]:
            with pytest.raises(BadInput, match=says):
                RECORD[kind](tx, replace(PART, **change))
        assert written(tx) == before


def test_no_more_is_taken_back_than_was_sold(db: Database) -> None:
    with db.begin() as tx:
        record_sale(tx, SALE)
        record_refund(tx, replace(PART, id="r1", gross=600, fee=0))
        record_dispute(tx, replace(PART, id="d1", gross=300, fee=200))
        for record in (record_refund, record_dispute):
            with pytest.raises(EarningRefused, match=r"of which 100 \(fee 0\) is left"):
                record(tx, replace(PART, gross=101, fee=0))
            with pytest.raises(EarningRefused, match=r"of which 100 \(fee 0\) is left"):
                record(tx, replace(PART, gross=100, fee=1))
        record_dispute_won(tx, replace(PART, id="w1", gross=300, fee=200))
        record_refund(tx, replace(PART, id="r2", gross=400, fee=200))
        # The platform kept its fee on the first refund, and so the creator paid it.
        assert balance(tx, "creator:ana", "usd") == 0
        assert balance(tx, FEES, "usd") == 0
        with pytest.raises(EarningRefused, match="of which 0"):
            record_refund(tx, replace(PART, id="r3", gross=1, fee=0))


def test_only_an_open_dispute_is_won(db: Database) -> None:
    with db.begin() as tx:
        record_sale(tx, SALE)
        record_refund(tx, replace(PART, id="r1"))
        with pytest.raises(EarningRefused, match="no open dispute"):
            record_dispute_won(tx, PART)
        record_dispute(tx, replace(PART, id="d1"))
        for gross, fee in ((301, 60), (300, 61), (300, 59), (241, 0)):
            with pytest.raises(EarningRefused, match=r"of which 300 \(fee 60\) is in dispute"):
                record_dispute_won(tx, replace(PART, gross=gross, fee=fee))
        record_dispute_won(tx, PART)
        with pytest.raises(EarningRefused, match="no open dispute"):
            record_dispute_won(tx, replace(PART, id="w2"))
        record_dispute(tx, replace(PART, id="d2"))
        record_dispute_won(tx, replace(PART, id="w2"))
        assert balance(tx, "creator:ana", "usd") == 800 - 240


def test_two_at_once_do_not_take_it_back_twice(db: Database) -> None:
    with db.begin() as tx:
        record_sale(tx, SALE)
    ready = threading.Barrier(4)

    def refund(number: int) -> bool | str:
        ready.wait()
        try:
            with db.begin() as tx:
                return record_refund(tx, replace(WHOLE, id=f"r{number // 2}"))
        except EarningRefused as refused:
            return str(refused)

    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(refund, range(4)))
    # One of them did it, its twin was told that it is done, the others that nothing is left.
    assert [ends.count(True), ends.count(False)] == [1, 1]
    assert sum("of which 0" in str(end) for end in ends) == 2
    with db.begin() as tx:
        assert balance(tx, CASH, "usd") == 0


def test_the_same_sale_twice_at_once_is_one(db: Database) -> None:
    ready = threading.Barrier(4)

    def sell(_: int) -> bool:
        ready.wait()
        with db.begin() as tx:
            return record_sale(tx, SALE)

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(sell, range(4))) == [False, False, False, True]
    with db.begin() as tx:
        assert balance(tx, "creator:ana", "usd") == 800


# --- what other programs wrote ------------------------------------------------------------------


def foreign(number: int, **change: Any) -> dict[str, Any]:
    return {
        "id": f"f{number}",
        "creator_id": "ana",
        "source": "tips",
        "kind": EarningKind.EARNING,
        "currency": "usd",
        "gross": 100,
        "fee": 20,
        "occurred_at": NOW - timedelta(days=number),
        **change,
    }


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


# --- whatever happens ---------------------------------------------------------------------------


@dataclass
class Told:
    """One sale, as plain arithmetic has it."""

    gross: int
    fee: int
    refunded: list[tuple[int, int]] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)
    won: list[tuple[int, int]] = field(default_factory=list)

    def open(self) -> tuple[int, int]:
        return (
            sum(g for g, _ in self.lost) - sum(g for g, _ in self.won),
            sum(f for _, f in self.lost) - sum(f for _, f in self.won),
        )

    def left(self) -> tuple[int, int]:
        gross, fee = self.open()
        return (
            self.gross - gross - sum(g for g, _ in self.refunded),
            self.fee - fee - sum(f for _, f in self.refunded),
        )

    def takes(self, kind: str, gross: int, fee: int) -> bool:
        """Whether it is sound; if so, it is done."""
        most_gross, most_fee = self.open() if kind == "dispute_won" else self.left()
        sound = 0 < gross <= most_gross and fee <= min(most_fee, gross)
        if kind == "dispute_won":
            sound = sound and gross - fee <= most_gross - most_fee
        if sound:
            {"refund": self.refunded, "dispute": self.lost, "dispute_won": self.won}[kind].append(
                (gross, fee)
            )
        return sound


AMOUNTS = st.integers(0, 40)
SALES = st.lists(st.tuples(st.integers(1, 40), AMOUNTS).filter(lambda s: s[1] <= s[0]), max_size=3)
CHANGES = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(list(RECORD)), AMOUNTS, AMOUNTS), max_size=20
)


@settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    max_examples=60,
)
@given(SALES, CHANGES)
def test_it_takes_what_plain_arithmetic_takes(
    db: Database, sales: list[tuple[int, int]], changes: list[tuple[int, str, int, int]]
) -> None:
    told = [Told(*sale) for sale in sales]
    with db.engine.connect() as tx:
        for number, sale in enumerate(told):
            record_sale(tx, replace(SALE, id=f"s{number}", gross=sale.gross, fee=sale.fee))
        for number, (which, kind, gross, fee) in enumerate(changes):
            change = Change(f"c{number}", f"s{which}", "usd", gross, fee, NOW)
            sound = which < len(told) and told[which].takes(kind, gross, fee)
            try:
                assert RECORD[kind](tx, change) is sound
            except BadInput:
                assert not sound
        left = [sale.left() for sale in told]
        assert balance(tx, "creator:ana", "usd") == sum(gross - fee for gross, fee in left)
        assert balance(tx, FEES, "usd") == sum(fee for _, fee in left)
        assert balance(tx, CASH, "usd") == -sum(gross for gross, _ in left)
        assert balanced(trial_balance(tx))
        assert post_earnings(tx) == 0
        tx.rollback()
