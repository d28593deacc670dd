"""A statement's PDF, as whoever gets it sees it; made from documents by hand."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pypdfium2
import pytest
import uharfbuzz as hb
from hypothesis import given, settings
from hypothesis import strategies as st

from app.platform.statements import pdf
from app.platform.statements.document import Document
from app.platform.statements.letters import FONTS, in_fonts, is_accent, runs
from app.platform.statements.sheet import Sheet, Style

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
    "श्रीमती": "श्रीमती क्षत्रिय",
    "Nguyễn": "Nguyễn Thị Ngọc Ánh",
    "නිල්": "සුනිල් පෙරේරා",
    "မောင်": "မောင်မောင်",
    "አበበ": "አበበ በቂላ",
    "ᏣᎳᎩ": "ᏣᎳᎩ",
    "བསྟན": "བསྟན་འཛིན་རྒྱ་མཚོ",
    "𠮷": "𠮷野家",
    "𝓐": "𝓐𝓷𝓪 ★ 🎉",
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
    fee, opening, when = gross // 5, 50, "2025-01-29T09:00:00.000Z"
    net, lines = gross - fee, list[Document]()
    for number in range(sales):
        at = f"2025-01-{number * 28 // sales + 1:02}T10:00:00.000Z"
        line = {"at": at, "kind": "earning", "id": f"{code}_{number:05}", "source": "tips"}
        figures = {"gross": gross, "fee": -fee, "amount": net}
        lines.append(line | figures | {"balance": opening + (number + 1) * net})
    balance = opening + sales * net
    line = {"at": when, "kind": "payout", "id": payout, "source": ""}
    lines.append(line | {"gross": 0, "fee": 0, "amount": -balance, "balance": 0})
    sums = {"sales": sales, "gross": sales * gross, "refunds": 0, "fees": sales * fee}
    sums["net"] = sales * net
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
    """The largest amounts, long ids and a name of 200 letters stay inside the margins; every line
    is there once, and every page names its columns."""
    codes = ("eur", "jpy", "kwd", "usd")
    most = 999_999_999_999
    document = made(
        "N" * 200, *(currency(code, 60, most, f"manual:{code}:" + "k" * 100) for code in codes)
    )
    texts = pages(document)
    whole = "\n".join(texts)
    assert len(texts) > 5
    for number, text in enumerate(texts, 1):
        assert f"Page {number} of {len(texts)}" in text
        assert "Statement ana:2025-01" in text
        assert ("Date What Reference Gross Fee Amount Balance" in text) or "Earnings" in text
    joined = re.sub(r"\s", "", whole)
    for code in codes:
        found = re.findall(rf"{code}_[0-9]{{5}}", joined)
        assert found == [f"{code}_{number:05}" for number in range(60)]
    assert "999,999,999,999" in whole
    assert "9,999,999,999.99" in whole
    assert "999,999,999.999" in whole
    assert "N" * 200 in joined
    assert f"manual:usd:{'k' * 100}" in joined


def test_the_widest_ids_and_sums_have_room() -> None:
    """The columns hold 19 digits, and a creator's id 64 letters."""
    most = 9_223_372_036_854_775_807
    document = made("W" * 200, currency("usd", 1, most // 2, "W" * 240) | {"opening": -most})
    who = document["creator"] | {"id": "W" * 64}
    document |= {"id": f"{who['id']}:2025-01", "creator": who, "platform": "W" * 60}
    (text,) = pages(document)
    assert "−92,233,720,368,547,758.07" in text
    assert ":2025-01" in text


def test_names_in_any_script() -> None:
    """Every letter of a name has a glyph, and none is the sign of a missing one."""
    document = made("Ana", currency("usd", 1))
    (tips,) = document["currencies"][0]["sources"]
    document["currencies"][0]["sources"] = [tips | {"source": name} for name in NAMES.values()]
    data = pdf.made(document)
    with closing(pypdfium2.PdfDocument(data)) as opened:
        text = opened[0].get_textpage().get_text_bounded()
    for part, name in NAMES.items():
        assert "".join(run.text for run in in_fonts(name, "Bold")) == name
        assert part in text, ascii(text)
    assert len(data) < 90_000, "only the letters that are used are in it"


def test_a_letter_that_no_font_has_is_seen_to_be_missing() -> None:
    (text,) = pages(made("Ana 𓀀 Müller"))
    assert "Ana � Müller" in text


def test_runs_go_from_left_to_right_and_no_word_is_cut_at_its_accents() -> None:
    def short(text: str) -> list[tuple[str, str, bool]]:
        return [(run.font.stem.partition("-")[0][8:], run.text, run.leftward) for run in runs(text)]

    assert short("Ana (שלום) 12 محمّد B") == [
        *(("", "Ana (", False), ("Hebrew", "שלום", True), ("", ") ", False)),
        *(("Arabic", "محمّد", True), ("", " ", True), ("", "12", False), ("", " B", False)),
    ]
    assert short("שלום כהן") == [
        *(("Hebrew", "כהן", True), ("", " ", True), ("Hebrew", "שלום", True))
    ]
    assert short("ශ්\N{ZERO WIDTH JOINER}රී") == [("Sinhala", "ශ්\N{ZERO WIDTH JOINER}රී", False)]
    assert short("") == []


def test_bold_where_there_is_a_font_for_it() -> None:
    names = ("Ana", "山田", "㐀", "ᏣᎳᎩ")
    assert [run.font.stem for name in names for run in runs(name, "Bold")] == [
        *("NotoSans-Bold", "NotoSansCJK-Bold", "NotoSansCJK-Regular", "NotoSansCherokee-Regular")
    ]


def test_every_font_says_whose_it_is_and_they_are_small_enough() -> None:
    files = [path for path in FONTS.iterdir() if path.suffix in (".ttf", ".otf")]
    for path in files:
        face = hb.Face(hb.Blob.from_file_path(str(path)))
        assert "Noto" in face.get_name(hb.OTNameIdPredefined.FULL_NAME)
        assert face.get_name(hb.OTNameIdPredefined.COPYRIGHT)
        assert ord(" ") in face.unicodes, "fpdf2 needs it"
    assert sum(path.stat().st_size for path in files) < 25_000_000


letters = st.sampled_from("aM1-_:. \u0301éعبש山田ก้ක්\u200d👩🏽💻")


@settings(max_examples=10)
@given(text=st.text(letters, max_size=80), width=st.integers(20, 120))
def test_a_text_is_broken_into_lines_that_fit_and_nothing_is_lost(text: str, width: int) -> None:
    sheet, text, style = Sheet(), " ".join(text.split()), Style(8)
    lines = sheet.lines(text, style, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    for line in lines:
        assert sheet.width(line, style) <= width
        assert line == line.strip(" ")
        assert line == lines[0] or not is_accent(line[0]) or f" {line[0]}" in text


@pytest.mark.parametrize("sales", range(28, 31))
def test_no_row_is_alone_on_a_page(sales: int) -> None:
    texts = pages(made("Ana", currency("usd", sales)))
    for text in texts:
        movements = text[text.rindex("Balance USD") :]
        assert len(re.findall(r"2025-01-[0-9]{2}", movements)) >= 2
    assert "".join(texts).count("Balance USD") == len(texts)


def test_the_same_document_has_the_same_bytes() -> None:
    document = made("Zoë Ana", currency("usd", 40), currency("jpy", 3))
    first = pdf.made(document)
    assert b"/CreationDate (D:20250201000000Z)" in first, "when the month ends"
    command = "import json, sys; from app.platform.statements import pdf;"
    command += "sys.stdout.buffer.write(pdf.made(json.load(sys.stdin)))"
    elsewhere = subprocess.run(
        [sys.executable, "-c", command],
        input=json.dumps(document).encode(),
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo"},
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert elsewhere.stdout == first
