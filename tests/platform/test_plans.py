"""Every query that grows with the ledger is answered from its index, on both databases."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select

from app.platform.earnings import rollup
from app.platform.earnings.models import Creator, Earning, EarningKind
from app.platform.earnings.posting import post_earnings
from app.platform.payouts import commands
from app.platform.payouts.eligibility import payable, verdicts
from app.platform.payouts.models import Payout, PayoutAttempt
from app.platform.statements import jobs
from app.platform.statements.document import documents
from app.switchyard.db import Database
from tests.support.earnings import a_creator
from tests.support.plans import analyze, plan, plan_of, sent
from tests.support.platform import START, Platform

NOW = datetime(2026, 3, 1, tzinfo=UTC)
MONEY: dict[str, tuple[Callable[[Connection], Any], list[str]]] = {
    "everyone's verdict": (
        lambda tx: tx.execute(select(verdicts(NOW).subquery())).all(),
        ["ix_earnings_time", "ix_earnings_refund_of"],
    ),
    "what one creator can be paid": (
        lambda tx: payable(tx, "c0007", "usd", NOW),
        [
            *("ix_earnings_creator", "ix_earnings_refund_of"),
            *("ix_entries_credit", "ix_entries_debit"),
        ],
    ),
    "what is not posted yet": (post_earnings, ["ix_earnings_unposted"]),
}


@pytest.fixture
def sold(db: Database) -> Database:
    """20,000 sales of 2,000 creators over a year, a twentieth refunded; ten not posted yet."""
    people = [a_creator(f"c{n:04}", stripe_account_id=None) for n in range(2_000)]
    sales = [
        {
            "id": f"e{n:05}",
            "creator_id": f"c{n % 2_000:04}",
            "source": "tips",
            "kind": EarningKind.EARNING,
            "currency": "usd",
            "gross": 1_000 + n,
            "fee": 100,
            "refund_of": None,
            "occurred_at": NOW - timedelta(minutes=26 * n),
        }
        for n in range(20_000)
    ]
    refunds = [
        sale | {"id": f"r{sale['id']}", "kind": EarningKind.REFUND, "refund_of": sale["id"]}
        for sale in sales[::20]
    ]
    with db.begin() as connection:
        connection.execute(insert(Creator), people)
        connection.execute(insert(Earning), sales + refunds)
        post_earnings(connection)
        connection.execute(
            insert(Earning), [sale | {"id": f"x{sale['id']}"} for sale in sales[:10]]
        )
    analyze(db)
    return db


def test_money_is_read_as_far_as_it_must_be(sold: Database) -> None:
    for name, (run, indexes) in MONEY.items():
        lines = plan_of(sold, run)
        for index in indexes:
            assert any(index in line for line in lines), (name, lines)
        # All of the index of what is not posted is what there is to do.
        scans = [line for line in lines if "SCAN earnings" in line or "Seq Scan on earn" in line]
        assert [line for line in scans if "ix_earnings_unposted" not in line] == [], (name, lines)


def test_sums_are_made_and_read_as_far_as_they_must_be(sold: Database) -> None:
    """A day, its month, its statements, and what is asked of them, in a year that is rolled up."""
    day, month, ids = date(2026, 2, 3), date(2026, 2, 1), [f"c{n:04}" for n in range(10)]
    with sold.begin() as tx:
        for one in rollup.dirty(tx, date(2100, 1, 1)):
            rollup.roll_day(tx, one)
    analyze(sold)
    queries: dict[str, Callable[[Connection], Any]] = {
        "a day that is new": lambda tx: rollup.roll_day(tx, date(2026, 2, 28)),
        "a day again": lambda tx: rollup.roll_day(tx, day),
        "a month": lambda tx: rollup.month_totals(tx, date(2025, 6, 1)),
        "a month's statements": lambda tx: tx.execute(jobs._active(month, "")),
        "their figures": lambda tx: documents(tx, ids, month, "x"),
    }
    for name, run in queries.items():
        wide = r"(SCAN|Seq Scan on) (earnings|entries|daily_earnings)"
        scans = [line for line in plan_of(sold, run) if re.search(wide, line)]
        assert scans == [], name


# --- payouts ------------------------------------------------------------------------------------


def _many_payouts(platform: Platform) -> None:
    """4,000 payouts of two years, done with long ago, each with its two attempts."""
    old = START - timedelta(days=60)
    paid = [
        {
            "id": f"old{n:05}",
            "creator_id": "ana",
            "currency": "usd",
            "amount": 5_000,
            "destination": "acct_ana",
            "status": ("failed", "reversed", "bank_failed")[n % 3] if n % 50 == 0 else "paid",
            "payout_date": None,
            "run_id": f"r{n // 200:02}",
            "transfer_id": f"tr_{n}",
            "bank_payout_id": f"po_{n}",
            "requested_at": old - timedelta(minutes=250 * n),
            "updated_at": old - timedelta(minutes=250 * n),
            "settled_at": old - timedelta(minutes=250 * n),
        }
        for n in range(4_000)
    ]
    tries = [
        {
            "key": f"{one['id']}-{leg}",
            "payout_id": one["id"],
            "leg": leg,
            "n": 1,
            "params": "{}",
            "first_sent_at": one["updated_at"],
            "outcome": "landed",
            "updated_at": one["updated_at"],
        }
        for one in paid
        for leg in ("transfer", "bank")
    ]
    with platform.db.begin() as connection:
        connection.execute(insert(Payout), paid)
        connection.execute(insert(PayoutAttempt), tries)
    analyze(platform.db)


def test_paying_reads_as_far_as_it_must(anywhere: Platform) -> None:
    """Every statement of the paying jobs and of `payouts show` on payouts and attempts, as it was
    sent."""
    for number in range(6):
        anywhere.creator(f"c{number}")
    anywhere.creator()
    _many_payouts(anywhere)
    anywhere.fault("refuse", path="/v1/payouts", code="account_closed", next=2)
    with sent(anywhere.db.engine) as statements:
        anywhere.pay_day()
        anywhere.now += timedelta(minutes=1)
        assert anywhere.result("retry-failed-payouts")["retried"] == 2
        assert anywhere.settle()["moved"] == 7
        commands.newest(anywhere.db, None, 50)
    asked = {one: bound for one, bound in reversed(statements) if " payout" in one}
    assert len(asked) > 15
    # The newest payouts are at the end of their index, and no more of it is read.
    scan = r"SCAN (?!payouts USING INDEX ix_payouts_newest)payout|Seq Scan on payout"
    wide = []
    with anywhere.db.engine.connect() as connection:
        for statement, bound in asked.items():
            lines = "\n".join(plan(connection, statement, bound))
            # SQLite walks along a page's ids where its order needs them; Postgres must not.
            if re.search(scan + r"|Index Cond: \(\(id\)::text >", lines):
                wide.append(f"{statement}\n{lines}\n")
    assert not wide, "\n".join(wide)
