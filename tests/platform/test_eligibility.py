"""Who is paid how much, and why others are not: beside plain arithmetic, on both databases."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, update

from app.local.seed import seed
from app.platform.earnings.models import Creator, Earning
from app.platform.earnings.posting import post_earnings
from app.platform.ledger.postings import EntryKind, Posting, balanced, post, trial_balance
from app.platform.payouts.eligibility import HOLDING, LeftOut, payable, reserve, verdicts
from app.platform.payouts.jobs import PayDay
from app.platform.payouts.models import Payout
from app.platform.payouts.plan import made_payouts, plan_day, planned_payouts
from app.switchyard.db import Database
from tests.support.earnings import Sale, a_creator, balance, record_sale
from tests.support.platform import DAY, START
from tests.support.tables import every_table

NOW = START
OLD, YOUNG = NOW - HOLDING, NOW - HOLDING + timedelta(microseconds=1)
CREATORS = ("ana", "bo")


def sale(name: str, gross: int, occurred_at: datetime, **change: Any) -> Sale:
    """A sale that brings its creator all of `gross`."""
    made = Sale(name, "ana", "tips", "usd", gross, 0, occurred_at)
    return replace(made, **change)


@pytest.fixture(autouse=True)
def creators(db: Database) -> None:
    with db.begin() as tx:
        tx.execute(insert(Creator), [a_creator(name) for name in CREATORS])


def judged(tx: Connection, now: datetime) -> dict[tuple[str, str], tuple[int, int, str | None]]:
    """Balance, amount and reason by creator and currency."""
    rows = tx.execute(select(*verdicts(now).subquery().c)).all()
    found = {(r.creator_id, r.currency): (r.balance, r.amount, r.reason) for r in rows}
    assert len(found) == len(rows)
    return found


def everything(db: Database) -> dict[str, list[Any]]:
    return {name: sorted(map(repr, db.rows(select(t)))) for name, t in every_table().items()}


# --- the holding period -------------------------------------------------------------------------


def test_a_sale_is_payable_once_it_is_as_old_as_the_holding_period(db: Database) -> None:
    with db.begin() as tx:
        record_sale(tx, sale("old", 3_000, OLD))
        record_sale(tx, sale("young", 4_000, YOUNG))
        assert judged(tx, NOW) == {("ana", "usd"): (7_000, 3_000, None)}
        assert payable(tx, "ana", "usd", NOW) == 3_000
        later = NOW + timedelta(microseconds=1)
        assert judged(tx, later) == {("ana", "usd"): (7_000, 7_000, None)}
        assert payable(tx, "ana", "usd", later) == 7_000
        assert payable(tx, "ana", "eur", NOW) == payable(tx, "bo", "usd", NOW) == 0


# --- the reasons --------------------------------------------------------------------------------

GATES: list[tuple[dict[str, Any], LeftOut]] = [
    ({"stripe_account_id": None, "disabled_reason": "x"}, LeftOut.NO_ACCOUNT),
    ({"disabled_reason": "x", "transfers_active": False}, LeftOut.ACCOUNT_DISABLED),
    ({"transfers_active": False, "payouts_enabled": False}, LeftOut.TRANSFERS_INACTIVE),
    ({"payouts_enabled": False}, LeftOut.PAYOUTS_DISABLED),
]
FIGURES = [
    ("xyz", 50_000, 0, 0, LeftOut.CURRENCY_UNSUPPORTED),
    ("usd", 1_000, 1_499, 1_000, LeftOut.BELOW_MINIMUM),
    ("usd", 1_000, 1_500, 1_000, LeftOut.HOLDING_PERIOD),
    ("huf", 1_000_045, 0, 1_000_000, None),
]


def test_the_first_reason_that_holds(db: Database) -> None:
    with db.begin() as tx:
        for number, (currency, old, young, amount, reason) in enumerate(FIGURES):
            who = f"c{number}"
            tx.execute(insert(Creator), [a_creator(who)])
            for gross, at in ((old, OLD), (young, YOUNG)):
                if gross:
                    name = f"{who}-{at:%d%H%f}"
                    record_sale(tx, sale(name, gross, at, creator_id=who, currency=currency))
            assert judged(tx, NOW)[who, currency] == (old + young, amount, reason), who
            assert payable(tx, who, currency, NOW) == amount
            for gate, first in GATES:
                tx.execute(update(Creator).where(Creator.id == who).values(**gate))
                assert judged(tx, NOW)[who, currency] == (old + young, amount, first)
                tx.execute(update(Creator).where(Creator.id == who).values(**a_creator(who)))


# --- a pay day ----------------------------------------------------------------------------------


def test_a_pay_day_takes_whole_units_and_leaves_the_rest(db: Database) -> None:
    with db.begin() as tx:
        record_sale(tx, sale("old", 1_200_045, OLD, currency="huf"))
        record_sale(tx, sale("young", 2_000_060, YOUNG, currency="huf"))
        result = {"requested": 1, "new": 1, "leftOut": {}}
        assert reserve(tx, DAY, NOW, "run1") == result
        (paid,) = tx.execute(select(Payout)).all()
        assert (paid.id, paid.amount) == ("2025-01-15:ana:huf", 1_200_000)
        assert (paid.status, paid.method, paid.run_id) == ("requested", "standard", "run1")
        assert paid.requested_at == paid.updated_at == NOW
        assert balance(tx, f"hold:{paid.id}", "huf") == 1_200_000
        assert balance(tx, "creator:ana", "huf") == 2_000_105
        later = NOW + HOLDING
        # It stays as it is: its amount, its run and its times.
        assert reserve(tx, DAY, later, "run2") == result | {"new": 0}
        assert tx.execute(select(Payout)).all() == [paid]
        assert reserve(tx, DAY + HOLDING, later, "run3")["new"] == 1
        amounts = tx.scalars(select(Payout.amount).order_by(Payout.id))
        assert list(amounts) == [1_200_000, 2_000_100]
        assert balance(tx, "creator:ana", "huf") == 5
        assert balanced(trial_balance(tx))


def test_a_pay_day_holds_up_no_sale(db: Database) -> None:
    if db.is_sqlite:
        pytest.skip("SQLite has one writer")
    with db.begin() as tx:
        record_sale(tx, sale("old", 5_000, OLD))
    with db.begin() as paying:
        reserve(paying, DAY, NOW, "run")
        with db.begin() as tx:
            tx.exec_driver_sql("SET LOCAL lock_timeout = '10s'")
            record_sale(tx, sale("new", 100, NOW))
    with db.begin() as tx:
        assert balance(tx, "creator:ana", "usd") == 100


def test_the_plan_is_what_the_pay_day_does_and_writes_nothing(db: Database) -> None:
    seed(db, creators=60, payable=40, now=NOW)
    with db.begin() as tx:
        # Not posted yet: the plan knows of them all the same.
        rows = sale("late", 9_500, OLD, fee=500), sale("new", 9_000, YOUNG, creator_id="bo")
        tx.execute(insert(Earning), [{**asdict(one), "kind": "earning"} for one in rows])
    before = everything(db)
    with db.session() as tx:
        plan = plan_day(tx, DAY, NOW)
    assert everything(db) == before
    with db.begin() as tx:
        post_earnings(tx)
        done = reserve(tx, DAY, NOW, "run")
        payouts = tx.execute(select(Payout).order_by(Payout.creator_id)).all()
    keys = ("creatorId", "currency", "amount", "destination")
    assert [tuple(one[key] for key in keys) for one in plan["pay"]] == [
        (one.creator_id, one.currency, one.amount, one.destination) for one in payouts
    ]
    assert sum(total["count"] for total in plan["totals"]) == done["new"] == 41
    assert plan["leftOutTotals"] == done["leftOut"]
    assert len(plan["leftOut"]) == sum(done["leftOut"].values()) == 21
    young = {"creatorId": "bo", "currency": "usd", "amount": 9_000, "reason": "holding_period"}
    assert young in plan["leftOut"]
    assert (plan["payoutDate"], plan["booksBalanced"]) == ("2025-01-15", True)


def test_the_plan_of_a_day_that_has_begun(db: Database) -> None:
    ends = [("requested", None), ("transferred", None), ("paid", NOW), ("failed", NOW)]
    with db.begin() as tx:
        for number in range(len(ends)):
            tx.execute(insert(Creator), [a_creator(f"c{number}")])
            record_sale(tx, sale(f"s{number}", 5_000, OLD, creator_id=f"c{number}"))
        reserve(tx, DAY, NOW, "run")
        for number, (status, settled) in enumerate(ends):
            row = update(Payout).where(Payout.creator_id == f"c{number}")
            transfer = None if status in ("requested", "failed") else f"tr_{number}"
            tx.execute(row.values(status=status, settled_at=settled, transfer_id=transfer))
            # New balances, payable and not: the day has its payout, so they wait.
            gross = 3_000 if number % 2 else 1_000
            record_sale(tx, sale(f"t{number}", gross, OLD, creator_id=f"c{number}"))
        record_sale(tx, sale("late", 2_600, OLD))
    with db.session() as tx:
        plan = plan_day(tx, DAY, NOW)
        other_day = plan_day(tx, DAY + timedelta(days=1), NOW)
    assert [(one["creatorId"], one["amount"], one.get("status")) for one in plan["pay"]] == [
        *(("ana", 2_600, None), ("c0", 5_000, "requested"), ("c1", 5_000, "transferred")),
    ]
    failed = {"creatorId": "c3", "currency": "usd", "amount": 5_000, "reason": "failed"}
    assert (plan["leftOut"], plan["leftOutTotals"]) == ([failed], {"failed": 1})
    assert plan["totals"] == [{"currency": "usd", "count": 3, "amount": 12_600}]
    assert [one["creatorId"] for one in other_day["pay"]] == ["ana", "c1", "c3"]
    # What a shadow compares is the same before the day, in the middle of it and after it.
    with db.begin() as tx:
        reserve(tx, DAY, NOW, "run")
    with db.session() as tx:
        made = made_payouts(tx, PayDay(payout_date=DAY), {"requested": 5})
        assert planned_payouts(plan) == planned_payouts(plan_day(tx, DAY, NOW)) == made
    amounts = {f"c{number}:usd": 5_000 for number in range(4)}
    assert made == {"requested": 5, "payouts": {"ana:usd": 2_600, **amounts}}


def test_the_plan_says_that_the_books_do_not_balance(db: Database) -> None:
    with db.session() as tx:
        post(tx, [Posting(EntryKind.HOLD, "x", "hold:none", "creator:ana", "usd", 9_000, NOW)])
        assert plan_day(tx, DAY, NOW)["booksBalanced"] is False
