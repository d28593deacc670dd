"""Statements are final, on both databases: a repeat changes nothing, and late entries come next."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import insert, select

from app.platform.earnings.models import Earning, EarningKind
from app.platform.gateways.storage import StorageUnavailable
from app.platform.ledger.postings import CASH, CREATOR, EntryKind, Posting
from app.platform.statements import jobs, pdf
from app.platform.statements.document import Document
from app.platform.statements.jobs import MadeMeanwhile
from app.platform.statements.models import Statement
from tests.support.earnings import balance
from tests.support.months import CURRENCIES, Months, Payout, at, history, in_short

JANUARY, FEBRUARY, MARCH = (date(2025, month, 1) for month in (1, 2, 3))
HALF_YEAR = [date(2025, month, 1) for month in range(1, 9)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make no real page: test_statement_document does."""
    monkeypatch.setattr(pdf, "made", lambda document: f"%PDF-{document['id']}".encode())


def kept(months: Months) -> list[Any]:
    return months.db.rows(select(Statement.__table__).order_by(Statement.id))


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def stated(months: Months, month: date) -> list[str]:
    """Make a month of all who had something in it; the new ones."""
    page = months.make_page(month)
    assert (page["last"], page["wrong"]) == (None, [])
    return list(page["new"])


def kept_usd(months: Months, statement_id: str) -> Document:
    (row,) = [row for row in kept(months) if row.id == statement_id]
    (one,) = json.loads(row.document)["currencies"]
    return dict(one)


def test_figures_that_do_not_add_up_make_no_statement(
    months: Months, caplog: pytest.LogCaptureFixture
) -> None:
    months.creator("ana", "bob")
    mine, when = CREATOR + "ana", at("2025-01-05")
    months.sale("s1", 900, "2025-01-05", creator="bob")
    row: dict[str, Any] = {"id": "s2", "creator_id": "ana", "source": "tips", "kind": "earning"}
    row |= {"currency": "usd", "gross": 500, "fee": 100, "occurred_at": when, "posted": False}
    with months.db.begin() as tx:  # not posted yet, so that it can be booked wrongly
        tx.execute(insert(Earning), [row])
    months.book(Posting(EntryKind.EARNING, "s2", CASH, mine, "usd", 499, when))
    page = {"last": None, "made": 1, "new": ["bob:2025-01"], "wrong": ["ana"]}
    assert months.make_page(JANUARY) == page
    says = "statement ana:2025-01 does not add up: earning s2 is booked with 499, not 400"
    assert caplog.messages == [says]
    assert [row.id for row in kept(months)] == ["bob:2025-01"]


def test_pages_of_all_who_had_something(
    months: Months, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PAGE_SIZE", 2)
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
            pages.append(months.make_page(JANUARY, after))
            if pages[-1]["last"] is None:
                return pages
            after = pages[-1]["last"]

    pages = run()
    assert sum(page["made"] for page in pages) == len(had)
    assert not any(page["wrong"] for page in pages)
    rows, there, storage = kept(months), files(tmp_path), months.gateways.storage
    assert storage is not None
    assert {row.creator_id for row in rows} == had
    for row in rows:
        assert row.id == f"{row.creator_id}:2025-01"
        made = json.loads(row.document)
        assert storage.get(row.pdf_path) == pdf.made(made)
    months.clock = at("2025-07-01")
    assert sorted(one for page in pages for one in page["new"]) == [row.id for row in rows]
    assert run() == [page | {"new": []} for page in pages]
    assert (kept(months), files(tmp_path)) == (rows, there), "the same again changes nothing"


def test_two_that_make_the_same_at_once_do_not_overwrite_each_other(months: Months) -> None:
    months.creator("ana")
    months.sale("s1", 500, "2025-01-05")

    def other_first() -> datetime:
        """Another run ends while this one stores its files."""
        if not kept(months):
            months.now = now  # type: ignore[method-assign]
            stated(months, JANUARY)
        return now()

    now, months.now = months.now, other_first  # type: ignore[method-assign]
    with pytest.raises(MadeMeanwhile, match="ana:2025-01"):
        months.make_page(JANUARY)
    assert len(kept(months)) == 1
    assert stated(months, JANUARY) == []


def test_what_is_booked_late_is_a_correction_in_the_next_one(months: Months) -> None:
    months.creator("ana")
    months.sale("s1", 500, "2025-01-05")
    stated(months, JANUARY)
    first = kept_usd(months, "ana:2025-01")
    months.sale("late", 100, "2025-01-20")
    months.change(EarningKind.REFUND, "s1", 70, "2025-01-21")
    assert stated(months, JANUARY) == []
    months.sale("s2", 70, "2025-02-05")
    stated(months, FEBRUARY)
    february = kept_usd(months, "ana:2025-02")
    assert in_short(february) == (500, 100, 0, 0, 600)
    assert [(line["kind"], line["amount"]) for line in february["lines"]] == [
        *(("correction", 30), ("earning", 70))
    ]
    stated(months, MARCH)
    assert in_short(kept_usd(months, "ana:2025-03")) == (600, 0, 0, 0, 600)
    assert kept_usd(months, "ana:2025-01") == first


@pytest.mark.parametrize("seed", range(2))
def test_each_one_opens_where_the_last_one_closed(months: Months, seed: int) -> None:
    """Half a year comes in bit by bit, in any order, while months are stated and left out."""
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
        balances = dict[str, int]()
        for row in (row for row in kept(months) if row.creator_id == creator):
            made = json.loads(row.document)["currencies"]
            assert {c["currency"]: c["opening"] for c in made if c["opening"]} == balances
            for c in made:
                moved = sum(line["amount"] for line in c["lines"])
                assert c["opening"] + moved == c["closing"]
            balances = {c["currency"]: c["closing"] for c in made if c["closing"]}
        with months.db.begin() as tx:
            owed = {code: balance(tx, CREATOR + creator, code) for code in CURRENCIES}
        assert balances == {code: amount for code, amount in owed.items() if amount}


def test_a_storage_that_fails_leaves_no_row(months: Months, tmp_path: Path) -> None:
    months.creator("ana")
    months.sale("s1", 500, "2025-01-05")
    (tmp_path / "storage").write_text("in the way")
    with pytest.raises(StorageUnavailable):
        months.make_page(JANUARY)
    assert kept(months) == []
    (tmp_path / "storage").unlink()
    assert months.make_page(JANUARY)["made"] == 1
