"""Statements over both databases: figures are the ledger's, files stay, and again is the same."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import case, func, insert, literal, or_, select

from app.platform.earnings.models import Earning, EarningKind
from app.platform.gateways.storage import Storage, StorageMissing, StorageUnavailable, open_storage
from app.platform.ledger.models import Entry
from app.platform.ledger.postings import CASH, EntryKind, Posting, creator_account
from app.platform.statements import csv as as_csv
from app.platform.statements import make, pdf
from app.platform.statements.document import Document, documents
from app.platform.statements.make import MadeMeanwhile, NotOver, make_page
from app.platform.statements.models import Statement
from app.platform.statements.movements import bounds
from app.switchyard.clock import iso
from app.switchyard.dispatch import dispatch
from tests.support.bucket import serving_bucket
from tests.support.earnings import record_dispute, record_dispute_won, record_refund
from tests.support.months import START, Months, Payout, at, history
from tests.support.site import Site

JANUARY, FEBRUARY, MARCH = (date(2025, month, 1) for month in (1, 2, 3))
HALF_YEAR = [date(2025, month, 1) for month in range(1, 9)]


@pytest.fixture
def months(database_url: str, tmp_path: Path) -> Iterator[Months]:
    made = Months(database_url, tmp_path / "storage")
    yield made
    made.db.dispose()


def statement(months: Months, month: date = JANUARY, creator: str = "ana") -> Document:
    with months.transaction() as tx:
        (made,) = documents(tx, [creator], month, "Fanhouse")
    return made


def usd(months: Months, month: date = JANUARY) -> Document:
    (one,) = statement(months, month)["currencies"]
    assert one["currency"] == "usd"
    return dict(one)


def in_short(one: Document) -> tuple[int, int, int, int, int]:
    return one["opening"], one["earned"]["net"], one["paid_out"], one["returned"], one["closing"]


def balances_at(months: Months, creator: str, month: date) -> dict[str, int]:
    """What the ledger owes the creator when the month ends, by currency, unless nothing."""
    mine = creator_account(creator)
    owed = func.sum(case((Entry.credit == mine, Entry.amount), else_=-Entry.amount))
    chosen = (
        select(Entry.currency, owed)
        .where(or_(Entry.credit == mine, Entry.debit == mine), Entry.created_at < bounds(month)[1])
        .group_by(Entry.currency)
    )
    with months.db.autocommit() as connection:
        return {code: int(amount) for code, amount in connection.execute(chosen) if amount}


@pytest.mark.parametrize("seed", range(4))
def test_any_history_adds_up_from_month_to_month(months: Months, seed: int) -> None:
    creators = ["ana", "bob", "Ana"]
    months.creator(*creators)
    history(months, seed, creators)
    for creator in creators:
        before: dict[str, int] = {}
        for month in HALF_YEAR:
            made = statement(months, month, creator)
            there = {one["currency"]: one for one in made["currencies"]}
            assert {c: one["opening"] for c, one in there.items() if one["opening"]} == before
            for one in there.values():
                opening, net, paid, back, closing = in_short(one)
                assert opening + net - paid + back == closing
                assert one["opening"] + sum(x["amount"] for x in one["lines"]) == closing
                assert not one["lines"] or one["lines"][-1]["balance"] == closing
                for part in (*one["sources"], one["earned"]):
                    assert part["gross"] - part["refunds"] - part["fees"] == part["net"]
                assert paid == sum(p["amount"] for p in one["payouts"])
                assert back == sum(p["returned"] for p in one["payouts"])
                times = [line["at"] for line in one["lines"]]
                assert times == sorted(times)
                assert all(made["from"] <= when < made["to"] for when in times)
            before = {c: one["closing"] for c, one in there.items() if one["closing"]}
            assert before == balances_at(months, creator, month)


def test_the_sums_are_those_of_the_earnings(months: Months) -> None:
    creators = ["ana", "bob"]
    months.creator(*creators)
    history(months, 7, creators, sales=90)
    theirs: Counter[tuple[str, str, str]] = Counter()
    with months.db.autocommit() as connection:
        for row in connection.execute(select(Earning)):
            start, end = bounds(JANUARY)
            if row.creator_id == "ana" and start <= row.occurred_at < end:
                sign = -1 if row.kind in (EarningKind.REFUND, EarningKind.DISPUTE) else 1
                sale = row.kind == EarningKind.EARNING
                theirs[row.currency, row.source, "gross" if sale else "refunds"] += (
                    row.gross if sale else -sign * row.gross
                )
                theirs[row.currency, row.source, "fees"] += sign * row.fee
                theirs[row.currency, row.source, "sales"] += sale
    ours = Counter(
        {
            (one["currency"], part["source"], name): part[name]
            for one in statement(months)["currencies"]
            for part in one["sources"]
            for name in ("gross", "refunds", "fees", "sales")
        }
    )
    assert ours
    assert {k: v for k, v in ours.items() if v} == {k: v for k, v in theirs.items() if v}


def test_a_month_with_all_that_can_happen_to_a_sale(months: Months) -> None:
    months.creator("ana")
    months.sale("s1", 10_000, "2024-12-31T23:59:59.999", fee=2_000)
    months.sale("s2", 5_000, "2025-01-01", fee=1_000, source="calls")
    months.sale("s3", 700, "2025-01-31T23:59:59.999", fee=700)
    months.sale("s4", 900, "2025-02-01", fee=0)
    months.change(record_refund, "s1", 4_000, "2025-01-10", fee=800)
    months.change(record_dispute, "s2", 5_000, "2025-01-11", fee=1_000)
    months.change(record_dispute_won, "s2", 2_000, "2025-02-12", fee=400)
    months.change(record_refund, "s3", 700, "2025-02-13", fee=700)
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
        *("s2", "record_refund-s1-2025-01-10", "record_dispute-s2-2025-01-11", "s3")
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
    mine = creator_account("ana")
    months.book(
        Posting(EntryKind.EARNING, "old books", CASH, mine, "usd", 500, at("2025-01-05")),
        Posting(EntryKind.REFUND, "a mistake", mine, CASH, "usd", 200, at("2025-01-06")),
    )
    made = usd(months)
    assert [line["source"] for line in made["lines"]] == ["other", "other"]
    assert in_short(made) == (0, 300, 0, 0, 300)
    assert made["earned"]["refunds"] == 200


def test_nothing_at_all(months: Months) -> None:
    months.creator("ana")
    assert statement(months)["currencies"] == []
    months.sale("s1", 100, "2025-01-31")
    months.pay(Payout("p1", 100, at("2025-02-01")))
    assert statement(months, date(2025, 3, 1))["currencies"] == [], "nothing is owed any more"
    assert in_short(usd(months, FEBRUARY)) == (100, 0, 100, 0, 0)


def test_figures_that_do_not_add_up_make_no_statement(
    months: Months, caplog: pytest.LogCaptureFixture
) -> None:
    months.creator("ana", "bob")
    mine, when = creator_account("ana"), at("2025-01-05")
    months.sale("s1", 900, "2025-01-05", creator="bob")
    with months.db.begin() as tx:  # not posted yet, so that it can be booked wrongly
        row = {
            "id": "s2",
            "creator_id": "ana",
            "source": "tips",
            "kind": "earning",
            "currency": "usd",
            "gross": 500,
            "fee": 100,
            "occurred_at": when,
            "posted": False,
        }
        tx.execute(insert(Earning), [row])
    months.book(Posting(EntryKind.EARNING, "s2", CASH, mine, "usd", 499, when))
    with months.transaction() as tx:
        assert make_page(tx, months, JANUARY, "") == {
            "last": None,
            "made": 1,
            "new": ["bob:2025-01"],
            "wrong": ["ana"],
        }
    says = "statement ana:2025-01 does not add up: earning s2 is booked with 499, not 400"
    assert caplog.messages == [says]
    assert [row.id for row in kept(months)] == ["bob:2025-01"]


# Made and kept


def kept(months: Months) -> list[Any]:
    with months.db.autocommit() as connection:
        return list(connection.execute(select(Statement).order_by(Statement.id)))


def storage_of(months: Months) -> Storage:
    assert months.gateways.storage is not None
    return months.gateways.storage


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_pages_of_all_who_had_something(
    months: Months, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "PAGE_SIZE", 2)
    months.creator("a1", "a2", "a3", "a4", "a5", "A6", "b-.", "..")
    months.sale("s1", 500, "2025-01-05", creator="a1")
    months.sale("s2", 500, "2024-12-05", creator="a2")
    months.sale("s3", 500, "2024-12-05", creator="a3")
    months.pay(Payout("p3", 500, at("2024-12-06"), creator="a3"))
    months.sale("s4", 500, "2025-02-01", creator="a4")
    months.sale("s5", 500, "2025-01-31", fee=500, creator="b-.")
    months.sale("s6", 500, "2025-01-31", creator="..")
    had = {"a1", "a2", "b-.", ".."}

    def run() -> list[dict[str, Any]]:
        pages, after = [], ""
        while True:
            with months.transaction() as tx:
                pages.append(make_page(tx, months, JANUARY, after))
            if pages[-1]["last"] is None:
                return pages
            after = pages[-1]["last"]

    pages = run()
    assert sum(page["made"] for page in pages) == len(had)
    assert not any(page["wrong"] for page in pages)
    rows, there = kept(months), files(tmp_path)
    assert {row.creator_id for row in rows} == had
    for row in rows:
        assert row.id == f"{row.creator_id}:2025-01"
        made = json.loads(row.document)
        assert storage_of(months).get(row.csv_path) == as_csv.made(made)
        assert storage_of(months).get(row.pdf_path) == pdf.made(made)
    months.clock = at("2025-07-01")
    assert sorted(one for page in pages for one in page["new"]) == [row.id for row in rows]
    assert run() == [page | {"new": []} for page in pages]
    assert (kept(months), files(tmp_path)) == (rows, there), "the same again changes nothing"
    storage_of(months).delete(rows[0].pdf_path)
    assert run() == [page | {"new": []} for page in pages]
    assert (kept(months), files(tmp_path)) == (rows, there), "a file that was lost comes back"


def test_a_month_that_is_not_over_has_no_statement_yet(months: Months) -> None:
    months.creator("ana")
    months.sale("s1", 500, "2025-01-05")
    months.clock = at("2025-01-31T23:59:59")
    with pytest.raises(NotOver, match="2025-01 is not over yet"):
        stated(months, JANUARY)
    assert kept(months) == []
    months.clock = at("2025-02-01")
    assert stated(months, JANUARY) == ["ana:2025-01"]


def test_two_that_make_the_same_at_once_do_not_overwrite_each_other(months: Months) -> None:
    months.creator("ana")
    months.sale("s1", 500, "2025-01-05")

    class Slow:
        """Another one is done while this one stores its files."""

        gateways = months.gateways
        now = months.now
        transaction = months.transaction
        done = False

    slow: Any = Slow()

    def other() -> datetime:
        if not slow.done:
            slow.done = True
            stated(months, JANUARY)
        return months.now()

    slow.now = other
    with pytest.raises(MadeMeanwhile, match="ana:2025-01"), months.transaction() as tx:
        make_page(tx, slow, JANUARY, "")
    assert len(kept(months)) == 1
    with months.transaction() as tx:
        assert make_page(tx, slow, JANUARY, "")["new"] == []


# What comes late


def stated(months: Months, month: date) -> list[str]:
    """Make a month of all who had something in it; the new ones."""
    with months.transaction() as tx:
        page = make_page(tx, months, month, "")
    assert (page["last"], page["wrong"]) == (None, [])
    return list(page["new"])


def kept_usd(months: Months, statement_id: str) -> Document:
    (row,) = [row for row in kept(months) if row.id == statement_id]
    (one,) = json.loads(row.document)["currencies"]
    return dict(one)


def ids(one: Document) -> list[str]:
    return [line["id"] for line in one["lines"]]


def test_a_late_sale_is_in_the_next_statement(months: Months) -> None:
    months.creator("ana", "bob")
    months.sale("s1", 500, "2025-01-05")
    months.sale("s2", 500, "2025-01-05", creator="bob")
    assert stated(months, JANUARY) == ["ana:2025-01", "bob:2025-01"]
    first = kept(months)
    months.sale("s3", 70, "2025-01-06", fee=20)
    months.sale("s4", 9, "2025-01-07", fee=9)
    months.sale("s5", 30, "2025-02-06")
    assert stated(months, FEBRUARY) == ["ana:2025-02", "bob:2025-02"]
    january, february = (kept_usd(months, f"ana:2025-{n}") for n in ("01", "02"))
    assert (in_short(january), ids(january)) == ((0, 500, 0, 0, 500), ["s1"])
    assert (in_short(february), ids(february)) == ((500, 80, 0, 0, 580), ["s3", "s4", "s5"])
    (tips,) = february["sources"]
    assert (tips["sales"], tips["gross"], tips["fees"], tips["net"]) == (3, 109, 29, 80)
    assert in_short(kept_usd(months, "bob:2025-02")) == (500, 0, 0, 0, 500)
    assert [row for row in kept(months) if row.month == JANUARY] == first
    assert stated(months, MARCH) == ["ana:2025-03", "bob:2025-03"]
    assert ids(kept_usd(months, "ana:2025-03")) == []


def test_the_first_one_has_what_came_after_the_others(months: Months) -> None:
    months.creator("ana", "bob", "cem")
    months.sale("s1", 500, "2025-01-05")
    months.sale("s2", 500, "2024-12-05", creator="bob")
    months.pay(Payout("p2", 500, at("2024-12-06"), creator="bob"))
    assert stated(months, JANUARY) == ["ana:2025-01"]
    months.sale("s3", 70, "2025-01-06", creator="bob")
    months.sale("s4", 30, "2025-02-06", creator="bob")
    months.sale("s5", 10, "2025-01-06", creator="cem")
    months.change(record_refund, "s5", 10, "2025-01-09")
    assert stated(months, FEBRUARY) == ["ana:2025-02", "bob:2025-02", "cem:2025-02"]
    bob, cem = (kept_usd(months, f"{who}:2025-02") for who in ("bob", "cem"))
    assert (in_short(bob), ids(bob)) == ((0, 100, 0, 0, 100), ["s3", "s4"])
    assert (in_short(cem), len(ids(cem))) == ((0, 0, 0, 0, 0), 2)


def test_who_had_nothing_but_what_came_late_has_a_statement(months: Months) -> None:
    months.creator("ana", "bob", "cem")
    months.sale("s1", 500, "2025-01-05")
    months.pay(Payout("p1", 500, at("2025-01-08")))
    months.sale("s2", 500, "2025-01-05", creator="bob")
    assert stated(months, JANUARY) == ["ana:2025-01", "bob:2025-01"]
    months.change(record_dispute, "s1", 500, "2025-01-09")
    months.change(record_dispute_won, "s1", 500, "2025-01-10")
    months.change(record_refund, "s2", 500, "2025-01-09")
    assert stated(months, FEBRUARY) == ["ana:2025-02", "bob:2025-02"]
    assert ids(kept_usd(months, "ana:2025-02")) == [
        *("record_dispute-s1-2025-01-09", "record_dispute_won-s1-2025-01-10")
    ]
    assert in_short(kept_usd(months, "bob:2025-02")) == (500, -500, 0, 0, 0)
    assert stated(months, MARCH) == []


def test_a_month_that_was_left_out_is_in_the_next_one(months: Months) -> None:
    months.creator("ana", "bob")
    months.sale("s1", 500, "2025-01-05")
    stated(months, JANUARY)
    months.sale("s2", 70, "2025-02-05")
    stated(months, MARCH)
    assert json.loads(kept(months)[1].document)["previous"] == "ana:2025-01"
    march = kept_usd(months, "ana:2025-03")
    assert (in_short(march), ids(march)) == ((500, 70, 0, 0, 570), ["s2"])
    months.sale("s3", 70, "2025-02-05", creator="bob")
    assert stated(months, FEBRUARY) == ["bob:2025-02"], "ana's is passed"
    assert in_short(kept_usd(months, "bob:2025-02")) == (0, 70, 0, 0, 70)


def test_what_was_being_booked_meanwhile_is_a_correction(months: Months) -> None:
    """An entry with an id from before the statement, and committed after it."""
    months.creator("ana")
    months.sale("s1", 500, "2025-01-05")
    stated(months, JANUARY)
    with months.db.begin() as tx:
        same = {"kind": "earning", "ref": "slow", "currency": "usd", "created_at": START}
        sides = {"debit": CASH, "credit": creator_account("ana")}
        tx.execute(insert(Entry), [{"id": -1, **same, **sides, "amount": 30}])
    months.sale("s2", 70, "2025-02-05")
    stated(months, FEBRUARY)
    february = kept_usd(months, "ana:2025-02")
    assert in_short(february) == (500, 100, 0, 0, 600)
    assert [(line["kind"], line["amount"]) for line in february["lines"]] == [
        *(("correction", 30), ("earning", 70))
    ]
    stated(months, MARCH)
    assert in_short(kept_usd(months, "ana:2025-03")) == (600, 0, 0, 0, 600)


@pytest.mark.parametrize("seed", range(4))
def test_every_entry_is_in_one_statement_whenever_it_came(months: Months, seed: int) -> None:
    """Half a year comes in bit by bit, in any order, while months are stated and left out: all
    movements of all statements are all of the ledger, each once."""
    random, creators = Random(seed), ["ana", "bob", "Ana"]
    months.creator(*creators)
    months.clock = at("2025-10-01")
    for creator in creators:
        months.sale(f"first {creator}", 100, "2025-01-05", creator=creator)
    for number, month in enumerate(HALF_YEAR):
        history(months, 100 * seed + number, creators, sales=20)
        if month in (JANUARY, HALF_YEAR[-1]) or random.random() < 0.8:
            stated(months, month)
    for creator in creators:
        lines, balances = Counter[tuple[str, str, int]](), dict[str, int]()
        for row in (row for row in kept(months) if row.creator_id == creator):
            made = json.loads(row.document)["currencies"]
            assert {c["currency"]: c["opening"] for c in made if c["opening"]} == balances
            balances = {c["currency"]: c["closing"] for c in made if c["closing"]}
            lines.update((c["currency"], x["at"], x["amount"]) for c in made for x in c["lines"])
        assert balances == balances_at(months, creator, HALF_YEAR[-1])
        assert lines == booked(months, creator)


def booked(months: Months, creator: str) -> Counter[tuple[str, str, int]]:
    mine = creator_account(creator)
    change = case((Entry.credit == mine, Entry.amount), else_=-Entry.amount)
    entries = select(Entry.currency, Entry.created_at, change)
    for_nothing = select(Earning.currency, Earning.occurred_at, literal(0))
    with months.db.autocommit() as connection:
        rows = [
            *connection.execute(entries.where(or_(Entry.credit == mine, Entry.debit == mine))),
            *connection.execute(
                for_nothing.where(Earning.creator_id == creator, Earning.gross == Earning.fee)
            ),
        ]
    return Counter((currency, str(iso(when)), amount) for currency, when, amount in rows)


def test_a_storage_that_fails_leaves_no_row(months: Months, tmp_path: Path) -> None:
    months.creator("ana")
    months.sale("s1", 500, "2025-01-05")
    (tmp_path / "storage").write_text("in the way")
    with pytest.raises(StorageUnavailable), months.transaction() as tx:
        make_page(tx, months, JANUARY, "")
    assert kept(months) == []
    (tmp_path / "storage").unlink()
    with months.transaction() as tx:
        assert make_page(tx, months, JANUARY, "")["made"] == 1


def test_files_go_into_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with serving_bucket(tmp_path / "s3") as url:
        site = Site(
            f"sqlite:///{tmp_path / 'site.db'}", storage_url=f"s3://statements/x?endpoint={url}"
        )
        dispatch("monthly-earnings-rollup", {"targetMonth": "2025-02"})
        for _ in range(5):
            site.queue.work(site.made.engine)
        names = sorted(path.suffix for path in (tmp_path / "s3" / "statements" / "x").rglob("*.*"))
        assert names == [".csv", ".csv", ".pdf", ".pdf"]
        files = (tmp_path / "s3" / "statements" / "x").rglob("*.pdf")
        assert [file.read_bytes()[:5] for file in files] == [b"%PDF-"] * 2
    site.db.dispose()


# Hostile strings, as they come out of the database


def test_hostile_strings(months: Months) -> None:
    name = 'x\r\n"=1+1",\u202eevil\t#eval("1")'
    months.creator("-ana", name=name)
    months.sale("=1+1", 700, "2025-01-05", source='@SUM(A1),"x"', creator="-ana")
    months.sale("+2", 300, "2025-01-06", source="-3", creator="-ana")
    made = statement(months, creator="-ana")
    assert made["creator"]["name"] == 'x "=1+1", evil #eval("1")'
    rows = list(csv.DictReader(io.StringIO(as_csv.made(made).decode(), newline="")))
    assert [(row["source"], row["reference"]) for row in rows[1:-1]] == [
        ('\'@SUM(A1),"x"', "'=1+1"),
        ("'-3", "'+2"),
    ]
    assert [Decimal(row["balance"]) for row in rows] == [0, 7, 10, 10]
    assert pdf.made(made).startswith(b"%PDF-")


def test_each_of_many_is_as_it_is_alone(months: Months) -> None:
    creators = ["ana", "bob", "cem", "Ana"]
    months.creator(*creators)
    history(months, 11, creators)
    with months.transaction() as tx:
        together = documents(tx, creators, JANUARY, "Fanhouse")
    alone = [statement(months, creator=one) for one in creators]
    assert sorted(together, key=str) == sorted(alone, key=str)


def test_a_storage_without_the_file(months: Months, tmp_path: Path) -> None:
    with pytest.raises(StorageMissing):
        open_storage(tmp_path.as_uri()).get("statements/2025-01/ana-1.pdf")
