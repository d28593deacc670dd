"""Stripe's export into the ledger: every line is booked once, known, or reported; none is lost."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from app.platform.earnings import csv_import
from app.platform.earnings.csv_import import CsvRefused, import_csv
from app.platform.earnings.models import Creator, Earning
from app.platform.ledger.models import Entry
from app.switchyard.db import Database
from tests.support.earnings import a_creator, balance
from tests.support.forks import forked
from tests.support.sides import environment

ITEMIZED = (
    "balance_transaction_id,created_utc,currency,gross,fee,net,reporting_category,source_id,"
    "charge_id,payment_metadata[creator_id],payment_metadata[source]"
)
DASHBOARD = "id,Type,Source,Amount,Fee,Net,Currency,Created (UTC),Description,creator_id (metadata)"
SALE = "txn_1,2025-01-05 10:00:00,usd,50.00,2.50,47.50,charge,ch_1,ch_1,ana,tips"
REFUND = "txn_2,2025-01-09 10:00:00,usd,-10.00,-0.50,-9.50,refund,re_1,ch_1,,"


class World:
    """A database with creators, and files to import."""

    def __init__(self, db: Database, folder: Path) -> None:
        self.db = db
        self.file = folder / "export.csv"
        with self.db.begin() as tx:
            tx.execute(insert(Creator), [a_creator(one) for one in ("ana", "bob")])
        self.said: list[tuple[int, str]] = []

    def write(self, *lines: str, header: str = ITEMIZED, end: str = "\n") -> None:
        self.file.write_text(end.join((header, *lines)) + end, newline="")

    def run(self) -> Counter[str]:
        self.said, done = [], Counter[str]()
        steps = import_csv(self.db, self.file, done, lambda n, why: self.said.append((n, str(why))))
        assert all(place <= whole for place, whole in steps)
        assert len(self.said) == done["bad"]
        assert left(done) == 0, "none is lost silently"
        return done

    def rows(self) -> list[Any]:
        return self.db.rows(select(Earning.__table__).order_by(Earning.id))

    def owed(self, who: str = "ana", currency: str = "usd") -> int:
        with self.db.begin() as tx:
            return balance(tx, f"creator:{who}", currency)

    def counts(self) -> tuple[int, int]:
        earnings, entries = (self.db.value(select(func.count(T.id))) for T in (Earning, Entry))
        return earnings, entries


@pytest.fixture
def world(lite: Database, tmp_path: Path) -> World:
    return World(lite, tmp_path)


def numbers(done: Counter[str]) -> tuple[int, int, int, int, int]:
    return done["read"], done["new"], done["known"], done["bad"], done["other"]


def left(done: Counter[str]) -> int:
    return 2 * done["read"] - done.total()


def test_a_sale_and_what_became_of_it(world: World) -> None:
    world.write(
        REFUND,  # before its sale, as an export sorted the other way round has it
        SALE,
        "txn_3,2025-01-10 10:00:00,usd,-40.00,15.00,-55.00,dispute,dp_1,ch_1,,",
        "txn_4,2025-02-10 10:00:00,usd,40.00,-10.00,50.00,dispute_reversal,dp_1,ch_1,,",
        "txn_5,2025-02-11 10:00:00,jpy,900,90,810,charge,ch_2,ch_2,ana,calls",
        "txn_6,2025-02-12 10:00:00,usd,-100.00,0,-100.00,payout,po_1,,,",
        "txn_7,2025-02-12 10:00:00,usd,0.00,1.20,-1.20,fee,,,,",
        "",
    )
    done = world.run()
    assert numbers(done) == (7, 5, 0, 0, 2)
    found = {row.id: row for row in world.rows()}
    assert set(found) == {"ch_1", "txn_2", "txn_3", "txn_4", "ch_2"}
    sale, refund, yen = found["ch_1"], found["txn_2"], found["ch_2"]
    assert (sale.gross, sale.fee, sale.source, sale.kind) == (5_000, 250, "tips", "earning")
    assert (refund.gross, refund.fee, refund.refund_of) == (1_000, 50, "ch_1")
    assert (refund.creator_id, refund.source) == ("ana", "tips"), "as its sale's"
    assert (yen.gross, yen.fee, yen.currency) == (900, 90, "jpy")
    assert sale.occurred_at == datetime(2025, 1, 5, 10, tzinfo=UTC)
    assert (found["txn_3"].fee, found["txn_4"].fee) == (0, 0), "the platform's own cost"
    assert all(row.posted for row in found.values())
    assert (world.owed(), world.owed(currency="jpy")) == (4_750 - 950, 810)


def test_the_dashboard_s_export_with_a_byte_order_mark(world: World) -> None:
    lines = [
        "txn_1,charge,ch_1,50.00,2.50,47.50,USD,2025-01-05 10:00,A tip,ana",
        'txn_9,payout,po_1,-47.50,0.00,-47.50,usd,2025-01-06 10:00,"line\r\nbreak, and more",',
    ]
    world.write(*lines, header="\ufeff" + DASHBOARD, end="\r\n")
    assert numbers(world.run()) == (2, 1, 0, 0, 1)
    (row,) = world.rows()
    assert (row.id, row.source, row.currency, row.gross) == ("ch_1", "other", "usd", 5_000)


BAD = {
    "fee": SALE.replace("2.50", "2.51"),
    "no amount": SALE.replace("50.00", "5O.00"),
    "of jpy": SALE.replace(",usd,", ",jpy,"),
    "no currency|xxq": SALE.replace(",usd,", ",xxq,"),
    "is no time": SALE.replace("2025-01-05", "2025-13-05"),
    "2025-01-05T10:00:00+99:00' is no time": SALE.replace(" 10:00:00", "T10:00:00+99:00"),
    "0001-01-01T00:00+14:00' is no time": SALE.replace(
        "2025-01-05 10:00:00", "0001-01-01T00:00+14:00"
    ),
    "9999-12-31' is no time": SALE.replace("2025-01-05 10:00:00", "9999-12-31"),
    "no creator 'eve'": SALE.replace(",ana,", ",eve,"),
    "creator_id must be": SALE.replace(",ana,", ",,"),
    "fields instead of": SALE + ",more",
    "gross must be": SALE.replace("50.00,2.50,47.50", "0.00,0.00,0.00"),
    "no sale 'ch_9'": REFUND.replace("ch_1", "ch_9"),
    "is in usd, not eur": REFUND.replace(",usd,", ",eur,"),
    "more than all of sale ch_1": REFUND.replace("-10.00,-0.50,-9.50", "-50.01,0.00,-50.01"),
    "not clear whose": REFUND.replace(",refund,", ",adjustment,"),
}


def test_bad_lines_are_reported_by_their_numbers_and_left_out(world: World) -> None:
    bad = [
        line.replace("ch_1", f"ch_{n}") if line.startswith("txn_1") else line
        for n, line in enumerate(BAD.values(), 10)
    ]
    world.write(SALE, *bad, SALE.replace("ch_1", "ch_8"))
    done = world.run()
    assert (done["read"], done["new"], done["bad"]) == (len(bad) + 2, 2, len(bad))
    reasons = dict(world.said)
    for number, says in enumerate(BAD, 3):
        assert any(part in reasons[number] for part in says.split("|")), reasons[number]
    assert len(world.rows()) == 2


def test_the_same_twice_makes_no_doubles(world: World) -> None:
    world.write(SALE, REFUND, SALE)
    assert numbers(world.run()) == (3, 2, 1, 0, 0)
    before = (world.rows(), world.counts(), world.owed())
    assert numbers(world.run()) == (3, 0, 3, 0, 0)
    assert (world.rows(), world.counts(), world.owed()) == before
    world.write(SALE.replace("50.00,2.50,47.50", "60.00,2.50,57.50"))
    assert numbers(world.run()) == (1, 0, 0, 1, 0)
    assert world.said == [(2, "ch_1 is recorded with gross 5000, not 6000")]
    assert (world.rows(), world.counts(), world.owed()) == before


def spelled(separator: str, comma: bool, *lines: str) -> str:
    """The lines as a spreadsheet of another country saves them."""
    rows = [line.split(",") for line in (ITEMIZED, *lines)]
    decimal = re.compile(r"(-?[0-9]+)\.([0-9]+)")
    if comma:
        rows = [[decimal.sub(r"\1,\2", cell) for cell in row] for row in rows]
    return "".join(separator.join(row) + "\r\n" for row in rows)


@pytest.mark.parametrize(
    ("separator", "comma", "encoding"),
    [
        *((";", False, "utf-8"), (";", True, "utf-8-sig")),
        *(("\t", True, "utf-16"), (",", False, "utf-16"), (",", False, "cp1252")),
    ],
)
def test_what_a_spreadsheet_made_of_it_is_read(
    world: World, separator: str, comma: bool, encoding: str
) -> None:
    text = spelled(separator, comma, SALE, REFUND)
    for before in ("", "\r\n", f"SEP={separator}\r\n", f"{separator}\r\n"):
        world.file.write_bytes(f"{before}{text}".encode(encoding))
        assert numbers(world.run()) == (2, 0 if before else 2, 2 if before else 0, 0, 0)
    assert (world.owed(), world.rows()[0].source) == (4_750 - 950, "tips")


OTHER_FILES = {
    "not such an export: .* but nothing": b"",
    "not such an export: it has no column": b"name,mail\nana,a@example.com\n",
    "has no column for category, .* but Id, Typ, Quelle": b"Id,Typ,Quelle,Betrag\n1,x\n",
    "no column .* but Betrag, Geb": "Betrag;Geb\xfchr\n1;2\n".encode("cp1252"),
    "broken off in a field, from line 1 on": b'"id,created\n' + SALE.encode(),
    "broken off": ITEMIZED.encode() + b'\ntxn_1,2025-01-05,usd,50.00,2.50,"47.50,charge,ch_1\n',
    "not such an export": bytes(range(128, 256)) * 8,
    "not such an export: it has": b"PK\x03\x04" + bytes(range(256)) * 4,
    "not such an export: it ": ITEMIZED.encode("utf-16")[:41],
}


@pytest.mark.parametrize("says", OTHER_FILES)
def test_a_file_of_another_kind_writes_nothing(world: World, says: str) -> None:
    world.file.write_bytes(OTHER_FILES[says])
    with pytest.raises(CsvRefused, match=says) as refused:
        world.run()
    assert "nothing written" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert world.counts() == (0, 0)
    world.file.unlink()
    with pytest.raises(CsvRefused, match="No such file"):
        world.run()


def test_a_truncated_file_says_what_is_committed_and_completes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_import, "BATCH", 2)
    lines = [SALE.replace("ch_1", f"ch_{n}") for n in range(5)]
    world.write(*lines)
    whole = world.file.read_bytes()
    # In the middle of a line: one that lost its end is bad, by its number.
    world.file.write_bytes(whole[:-20])
    done = world.run()
    assert (done["new"], done["bad"], world.said[0][0]) == (4, 1, 6)
    world.write(*lines[:3], '"txn_1,and the rest is gone')
    with pytest.raises(CsvRefused, match="broken off in a field, from line 5 on"):
        world.run()
    world.file.write_bytes(whole)
    assert numbers(world.run()) == (5, 1, 4, 0, 0)


# The command, in a process of its own


def test_the_command_reports_bad_lines_and_ends_with_one(world: World) -> None:
    world.write(SALE, BAD["is no time"])
    url, jobs = str(world.db.engine.url), "app.switchyard.maintenance"
    environ = environment(url, "redis://127.0.0.1:1/0", SWITCHYARD_JOBS=jobs)
    words = ["-m", "flask", "--app", "app", "earnings", "import", str(world.file), "--json"]
    done = forked(words, environ)
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert (answer["read"], answer["new"], answer["bad"], answer["left"]) == (2, 1, 1, 0)
    assert answer["lines"] == [{"line": 3, "reason": "created '2025-13-05 10:00:00' is no time"}]
    assert done.stderr == "line 3: created '2025-13-05 10:00:00' is no time\n", "and no bar"
    world.file.write_text("name\nana\n")
    done = forked(words, environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_two_refunds_of_one_batch_take_back_no_more_than_there_was(world: World) -> None:
    half = REFUND.replace("-10.00,-0.50,-9.50", "-30.00,0.00,-30.00")
    world.write(SALE, half, half.replace("txn_2", "txn_3"))
    assert numbers(world.run()) == (3, 2, 0, 1, 0)
    assert "more than all of sale ch_1" in world.said[0][1]
    assert world.owed() == 4_750 - 3_000
