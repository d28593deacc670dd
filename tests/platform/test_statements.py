"""A statement's figures are the ledger's, on both databases."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from app.platform.earnings.models import EarningKind as K
from app.platform.earnings.rollup import raw
from app.platform.ledger.postings import CASH, CREATOR, EntryKind, Posting
from app.platform.statements.document import Document, documents
from tests.support.months import Months, Payout, at, history, in_short

JANUARY, FEBRUARY, MARCH = (date(2025, month, 1) for month in (1, 2, 3))


def statement(months: Months, month: date = JANUARY, creator: str = "ana") -> Document:
    with months.transaction() as tx:
        (made,) = documents(tx, [creator], month, "Fanhouse")
    return made


def usd(months: Months, month: date = JANUARY) -> Document:
    (one,) = statement(months, month)["currencies"]
    assert one["currency"] == "usd"
    return dict(one)


def test_the_sums_are_those_of_the_rollup(months: Months) -> None:
    creators = ["ana", "bob"]
    months.creator(*creators)
    history(months, 7, creators, sales=90)
    ours = {
        (one["currency"], part["source"]): tuple(part.values())[1:]
        for one in statement(months)["currencies"]
        for part in one["sources"]
    }
    theirs = {
        (row.currency, row.source): (row.count, row.gross, row.refunds, row.fees, row.net)
        for row in months.db.rows(raw(JANUARY, FEBRUARY))
        if row.creator_id == "ana"
    }
    assert ours
    assert ours == theirs


def test_a_month_with_all_that_can_happen_to_a_sale(months: Months) -> None:
    months.creator("ana")
    months.sale("s1", 10_000, "2024-12-31T23:59:59.999", fee=2_000)
    months.sale("s2", 5_000, "2025-01-01", fee=1_000, source="calls")
    months.sale("s3", 700, "2025-01-31T23:59:59.999", fee=700)
    months.sale("s4", 900, "2025-02-01", fee=0)
    months.change(K.REFUND, "s1", 4_000, "2025-01-10", fee=800)
    months.change(K.DISPUTE, "s2", 5_000, "2025-01-11", fee=1_000)
    months.change(K.DISPUTE_WON, "s2", 2_000, "2025-02-12", fee=400)
    months.change(K.REFUND, "s3", 700, "2025-02-13", fee=700)
    january, february = usd(months), usd(months, FEBRUARY)
    assert january["opening"] == 8_000
    assert january["sources"] == [
        {"source": "calls", "sales": 1, "gross": 5_000, "refunds": 5_000, "fees": 0, "net": 0},
        {
            "source": "tips",
            "sales": 1,
            "gross": 700,
            "refunds": 4_000,
            "fees": -100,
            "net": -3_200,
        },
    ]
    assert [line["id"] for line in january["lines"]] == [
        *("s2", "refund-s1-2025-01-10", "dispute-s2-2025-01-11", "s3")
    ]
    assert in_short(january) == (8_000, -3_200, 0, 0, 4_800)
    assert in_short(february) == (4_800, 900 + 1_600, 0, 0, 7_300)
    assert [(line["kind"], line["gross"], line["fee"]) for line in february["lines"]] == [
        *(("earning", 900, 0), ("dispute_won", 2_000, -400), ("refund", -700, 700))
    ]


@pytest.mark.parametrize(
    ("fate", "january", "february"),
    [
        ("paid", (0, 9_000, 5_000, 0, 4_000), (4_000, 0, 0, 0, 4_000)),
        ("failed", (0, 9_000, 5_000, 0, 4_000), (4_000, 0, 0, 5_000, 9_000)),
        ("retried", (0, 9_000, 5_000, 0, 4_000), (4_000, 0, 5_000, 5_000, 4_000)),
        ("returned", (0, 9_000, 5_000, 0, 4_000), (4_000, 0, 0, 5_000, 9_000)),
        ("reversed", (0, 9_000, 5_000, 0, 4_000), (4_000, 0, 0, 5_000, 9_000)),
    ],
)
def test_payouts_that_end_in_a_later_month(
    months: Months, fate: str, january: Any, february: Any
) -> None:
    months.creator("ana")
    months.sale("s1", 9_000, "2025-01-02")
    months.pay(Payout("manual:ana:k1", 5_000, at("2025-01-31T20:00"), fate))
    assert in_short(usd(months)) == january
    assert in_short(usd(months, FEBRUARY)) == february
    (payout,) = usd(months)["payouts"]
    assert payout == {
        "id": "manual:ana:k1",
        "at": "2025-01-31T20:00:00.000Z",
        "amount": 5_000,
        "returned": 0,
    }
    later = [(p["amount"], p["returned"]) for p in usd(months, FEBRUARY)["payouts"]]
    assert later == ([] if fate == "paid" else [(february[2], february[3])])


def test_a_payout_tried_twice_in_a_month_is_one_payout(months: Months) -> None:
    months.creator("ana")
    months.sale("s1", 9_000, "2025-01-02")
    months.pay(Payout("p1", 5_000, at("2025-01-10"), "retried"))
    months.pay(Payout("p2", 1_000, at("2025-01-11"), "failed"))
    made = usd(months)
    assert in_short(made) == (0, 9_000, 11_000, 6_000, 4_000)
    assert [(p["id"], p["amount"], p["returned"]) for p in made["payouts"]] == [
        ("p1", 10_000, 5_000),
        ("p2", 1_000, 1_000),
    ]


def test_what_was_booked_without_an_earning_is_there_too(months: Months) -> None:
    months.creator("ana")
    mine = CREATOR + "ana"
    months.book(
        Posting(EntryKind.EARNING, "old books", CASH, mine, "usd", 500, at("2025-01-05")),
        Posting(EntryKind.REFUND, "a mistake", mine, CASH, "usd", 200, at("2025-01-06")),
    )
    made = usd(months)
    assert [line["source"] for line in made["lines"]] == ["other", "other"]
    assert in_short(made) == (0, 300, 0, 0, 300)
    assert made["earned"]["refunds"] == 200


def test_a_name_has_no_control_characters(months: Months) -> None:
    name = 'x\r\n"=1+1",\u202eevil\t#eval("1")' + "\u0310" * 90
    months.creator("-ana", name=name)
    made = statement(months, creator="-ana")
    assert made["creator"]["name"] == 'x "=1+1", evil #eval("1")' + "\u0310" * 3
