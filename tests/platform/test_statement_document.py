"""A statement's PDF and CSV, as whoever gets them sees them; made from documents by hand."""

from __future__ import annotations

import csv
import ctypes
import io
import itertools
import re
from contextlib import closing
from datetime import date
from decimal import Decimal
from typing import Any

import pypdfium2
import pytest

from app.platform.statements import csv as as_csv
from app.platform.statements import pdf
from app.platform.statements.document import Document, major, month_of
from app.platform.statements.movements import bounds
from app.switchyard.errors import BadInput

NAMES = {
    "Müller": "Zoë Müller-Łukasz Ñandú",
    "山田": "山田太郎",
    "김철": "김철수",
    "王": "王小明",
    "محمد": "محمد الأحمد",
    "שלום": "שלום כהן",
    "Борис": "Борис Ελευθερία ქართული հայ",
    "สม": "สมชาย",
    "த": "தமிழ் বাংলা",
}
"""A part that is to be found in what is copied out of the PDF, and the whole name."""


def made(name: str = "Ana Müller", *currencies: Document) -> Document:
    return {
        "id": "ana:2025-01",
        "platform": "Fanhouse",
        "creator": {"id": "ana", "name": name, "country": "US"},
        "month": "2025-01",
        "from": "2025-01-01T00:00:00.000Z",
        "to": "2025-02-01T00:00:00.000Z",
        "currencies": list(currencies),
    }


def currency(code: str, sales: int, gross: int = 123_456, payout: str = "payout_1") -> Document:
    fee = gross // 5
    opening, balance = 50, 50
    lines: list[Document] = []
    for number in range(sales):
        balance += gross - fee
        lines.append(
            {
                "at": f"2025-01-{number * 28 // sales + 1:02}T10:00:00.000Z",
                "kind": "earning",
                "id": f"{code}_{number:05}",
                "source": "tips",
                "gross": gross,
                "fee": -fee,
                "amount": gross - fee,
                "balance": balance,
            }
        )
    when = "2025-01-29T09:00:00.000Z"
    lines.append(
        {"at": when, "kind": "payout", "id": payout, "source": "", "gross": 0, "fee": 0}
        | {"amount": -balance, "balance": 0}
    )
    sums = {
        "sales": sales,
        "gross": sales * gross,
        "refunds": 0,
        "fees": sales * fee,
        "net": sales * (gross - fee),
    }
    return {
        "currency": code,
        "opening": opening,
        "sources": [{"source": "tips", **sums}],
        "earned": sums,
        "payouts": [{"id": payout, "at": when, "amount": balance, "returned": 0}],
        "paid_out": balance,
        "returned": 0,
        "closing": 0,
        "lines": lines,
    }


def pages(document: Document) -> list[str]:
    """Each page's text, once every page was seen to have nothing outside its margins."""
    texts = []
    with closing(pypdfium2.PdfDocument(pdf.made(document))) as opened:
        for page in opened:
            bitmap = page.render(scale=1, grayscale=True)
            width, stride = bitmap.width, bitmap.stride
            assert (width, bitmap.height) == (596, 842), "A4 in points"
            pixels = bytes(
                ctypes.cast(bitmap.buffer, ctypes.POINTER(ctypes.c_ubyte))[: stride * 842]
            )
            rows = [pixels[y * stride : y * stride + width] for y in range(842)]
            assert any(min(row) < 128 for row in rows), "something is there"
            for row in rows:
                assert min(row[:48]) == min(row[-48:]) == 255, "and none of it in the margin"
            seen = page.get_textpage()
            texts.append(seen.get_text_bounded())
            runs = [seen.get_rect(n) for n in range(seen.count_rects())]
            for one, other in itertools.combinations(runs, 2):
                apart = (
                    min(one[2], other[2]) - max(one[0], other[0]) < 0.5
                    or min(one[3], other[3]) - max(one[1], other[1]) < 0.5
                )
                assert apart, "no text is over another"
    return texts


def test_an_ordinary_month() -> None:
    (text,) = pages(made("Ana Müller", currency("usd", 12)))
    for part in (
        *("Fanhouse", "Statement ana:2025-01", "Statement for January 2025", "Ana Müller"),
        *("2025-01-01 to 2025-01-31", "Page 1 of 1", "usd_00011", "−11,852.30", "−246.91"),
        *("Balance USD", "Closing balance", "payout_1"),
    ):
        assert part in text, part


def test_a_month_without_anything() -> None:
    (text,) = pages(made())
    assert "There were no sales, refunds or payouts in this month" in text
    assert "Page 1 of 1" in text


def test_hundreds_of_lines_in_several_currencies() -> None:
    """Amounts as large as they get, long ids and a name of 200 letters: all inside the margins,
    every line there once, and the columns named on every page."""
    codes = ("eur", "jpy", "kwd", "usd")
    most = 999_999_999_999
    document = made(
        "N" * 200, *(currency(code, 100, most, f"manual:{code}:" + "k" * 100) for code in codes)
    )
    texts = pages(document)
    whole = "\n".join(texts)
    assert len(texts) > 8
    for number, text in enumerate(texts, 1):
        assert f"Page {number} of {len(texts)}" in text
        assert "Statement ana:2025-01" in text
        assert ("Date What Reference Gross Fee Amount Balance" in text) or "Earnings" in text
    joined = re.sub(r"\s", "", whole)
    for code in codes:
        found = re.findall(rf"{code}_[0-9]{{5}}", joined)
        assert found == [f"{code}_{number:05}" for number in range(100)]
    assert "999,999,999,999" in whole
    assert "9,999,999,999.99" in whole
    assert "999,999,999.999" in whole
    assert "N" * 200 in joined
    assert f"manual:usd:{'k' * 100}" in joined


@pytest.mark.parametrize(("part", "name"), NAMES.items())
def test_a_name_in_any_script(part: str, name: str) -> None:
    """Glyphs for a name's letters are there: none of them is the box of a missing one."""
    document = made(name)
    data = pdf.made(document)
    with closing(pypdfium2.PdfDocument(data)) as opened:
        text = opened[0].get_textpage().get_text_bounded()
    assert part in text or part[::-1] in text, ascii(text)
    assert len(data) < 200_000, "only the letters that are used are in it"


def test_nothing_in_it_is_code() -> None:
    hostile = '#panic() $x$ *a* _b_ \\ ] } ") @ref <tag> // none'
    document = made(hostile, currency("usd", 3))
    document["platform"] = "#Fan*house*"
    document["currencies"][0]["sources"][0]["source"] = "#let x = 1"
    (text,) = pages(document)
    assert hostile in text.replace("\r\n", " ")
    assert "#Fan*house*" in text
    assert "#let x = 1" in text


def test_the_same_document_has_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    document = made("山田 Ana", currency("usd", 40), currency("jpy", 3))
    first = pdf.made(document)
    pdf._fonts.cache_clear()
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    assert pdf.made(document) == first
    assert b"CreationDate" not in first
    other = made("山田 Ana", currency("usd", 40), currency("jpy", 4))
    assert pdf.made(other) != first


def test_csv_is_what_rfc_4180_says() -> None:
    document = made("Ana", currency("usd", 2), currency("kwd", 1))
    document["currencies"][0]["lines"][0]["source"] = 'tips, "large"\r\nones'
    data = as_csv.made(document)
    assert data.startswith(b"date,currency,what,source,reference,gross,fee,amount,balance\r\n")
    assert data.endswith(b"\r\n")
    assert b'"tips, ""large""\r\nones"' in data
    rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    assert [row["what"] for row in rows] == [
        *("opening", "earning", "earning", "payout", "closing"),
        *("opening", "earning", "payout", "closing"),
    ]
    assert rows[1]["source"] == 'tips, "large"\r\nones'
    assert (rows[1]["gross"], rows[1]["fee"], rows[6]["gross"]) == ("1234.56", "-246.91", "123.456")
    for before, row in itertools.pairwise(rows):
        if row["amount"]:
            assert Decimal(before["balance"]) + Decimal(row["amount"]) == Decimal(row["balance"])


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r="])
def test_no_cell_of_the_csv_is_a_formula(start: str) -> None:
    document = made("Ana", currency("usd", 1, payout=f"{start}1+1"))
    document["currencies"][0]["lines"][0] |= {"source": f"{start}x", "id": f"{start}y"}
    cells = list(csv.reader(io.StringIO(as_csv.made(document).decode(), newline="")))
    assert [f"'{start}x", f"'{start}y", f"'{start}1+1"] == [*cells[2][3:5], cells[3][4]]


@pytest.mark.parametrize(
    ("amount", "code", "shown"),
    [
        *((123_456_789, "usd", "1,234,567.89"), (-5, "usd", "-0.05"), (0, "jpy", "0")),
        *((-1_234, "jpy", "-1,234"), (1_234_567, "kwd", "1,234.567"), (10_000, "isk", "100.00")),
    ],
)
def test_amounts_in_units(amount: int, code: str, shown: str) -> None:
    assert major(amount, code) == shown


def test_months() -> None:
    assert month_of("2024-12") == date(2024, 12, 1)
    start, end = bounds(date(2024, 12, 1))
    assert (f"{start}", f"{end}") == ("2024-12-01 00:00:00+00:00", "2025-01-01 00:00:00+00:00")
    wrong: list[Any] = [
        "",
        "2025",
        "2025-13",
        "2025-00",
        "2025-1",
        "2025-01-01",
        "25-01",
        "x",
        "٢٠٢٥-٠١",
    ]
    for text in (*wrong, "1999-12", "9999-12", "2025-01\n", "2025-01\0"):
        with pytest.raises(BadInput, match="month must be YYYY-MM"):
            month_of(text)
