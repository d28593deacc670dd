"""A statement as PDF, made from the document alone: the same document, the same bytes."""

from __future__ import annotations

from datetime import date, datetime, timedelta

from fpdf import FPDF
from fpdf.output import OutputProducer, PDFInfo

from app.platform.statements.document import CORRECTION, PAYOUT, RETURNED, Document, major
from app.platform.statements.figures import (
    FAINT,
    GREY,
    LEADING,
    LEFT,
    MM,
    RIGHT,
    Column,
    Flow,
    Heading,
    Mark,
    Rule,
    Table,
    Words,
    height,
)
from app.platform.statements.typesetting import Style, Typesetter

_KINDS = {
    "earning": "Sale",
    "refund": "Refund",
    "dispute": "Dispute",
    "dispute_won": "Dispute won",
    PAYOUT: "Payout",
    RETURNED: "Payout returned",
    CORRECTION: "Correction",
}
_PLAIN, _STRONG, _LABEL = Style(8.5), Style(8.5, "Bold"), Style(8.5, grey=GREY)
_NOTE, _PLATFORM, _NUMBER = Style(7.5, grey=GREY), Style(8, "Bold"), Style(8, grey=GREY)
_OF_IDS, _OF_WORDS = ":_/.", "-"
"""After which letters a line may be broken. Whoever copies a text loses a hyphen there."""
_HEADER, _HEADER_RULE, _FOOTER = 42.23, 51.59, 807.9
"""From the top: the last baseline, and what is below it."""
_HEADER_LINES = 3
"""More have no room above the rule."""


def made(document: Document) -> bytes:
    """A4, with as many pages as it takes."""
    pdf = FPDF(unit="pt", format="A4")
    pdf.set_auto_page_break(False)
    pdf.set_title(_title(document))
    pdf.set_author(document["platform"])
    pdf.set_lang("en")
    # Of what is made now, only the file's id; see _Undated.
    pdf.set_creation_date(datetime.fromisoformat(document["to"]))
    setter = Typesetter(pdf)
    flow = Flow(setter)
    _overview(flow, setter, document)
    for one in document["currencies"]:
        _currency(flow, document, one)
    header = _header(setter, document)
    for number, marks in enumerate(flow.pages, 1):
        pdf.add_page()
        for mark in (*header, *marks, *_footer(setter, number, len(flow.pages))):
            _draw(pdf, setter, mark)
    return bytes(pdf.output(output_producer_class=_Undated))


class _Undated(OutputProducer):
    """It does not say when the file was made."""

    def _add_info(self) -> PDFInfo:
        info = super()._add_info()
        info.creation_date = None  # type: ignore[assignment]
        return info


def _draw(pdf: FPDF, setter: Typesetter, mark: Mark) -> None:
    if isinstance(mark, Words):
        setter.draw(mark.x, mark.y, mark.text, mark.style)
    elif isinstance(mark, Rule):
        pdf.set_line_width(mark.width)
        pdf.set_draw_color(round(mark.grey * 255))
        pdf.line(LEFT, mark.y, RIGHT, mark.y)
    else:
        pdf.set_y(mark.y)
        pdf.start_section(mark.name, mark.level)


def _header(setter: Typesetter, document: Document) -> list[Mark]:
    number = f"Statement {document['id']}"
    x = RIGHT - setter.width(number, _NUMBER)
    lines = setter.lines(document["platform"], _PLATFORM, x - LEFT - 8, _OF_WORDS)[:_HEADER_LINES]
    step = height(_PLATFORM.size) + LEADING * _PLATFORM.size
    top = _HEADER - step * (len(lines) - 1)
    return [
        *(Words(LEFT, top + n * step, line, _PLATFORM) for n, line in enumerate(lines)),
        Words(x, top, number, _NUMBER),
        Rule(_HEADER_RULE, 0.4, FAINT),
    ]


def _footer(setter: Typesetter, page: int, pages: int) -> list[Mark]:
    place = f"Page {page} of {pages}"
    x = RIGHT - setter.width(place, _NOTE)
    return [Words(LEFT, _FOOTER, "All times are UTC.", _NOTE), Words(x, _FOOTER, place, _NOTE)]


def _overview(flow: Flow, setter: Typesetter, document: Document) -> None:
    """Whose month it is, and what it comes to."""
    flow.heading(Heading(_title(document), Style(17, "Bold"), 0, 13.1, 0))
    who = document["creator"]
    rows = (
        ("Creator", who["name"], _STRONG, _OF_WORDS),
        ("Account", f"{who['id']} ({who['country']})", _PLAIN, _OF_IDS),
        ("Period", f"{document['from'][:10]} to {_last_day(document)}, UTC", _PLAIN, ""),
    )
    indent = LEFT + 14 + max(setter.width(name, _LABEL) for name, *_ in rows)
    for name, value, style, after in rows:
        flow.space(6)
        flow.text(value, style, x=indent, after=after, label=Words(LEFT, 0, name, _LABEL))
    flow.space(18.2)
    if not document["currencies"]:
        nothing = "There were no sales, refunds or payouts in this month, and there is no balance."
        flow.text(nothing, _PLAIN)
        return
    names = ("Opening balance", "Earned", "Paid out", "Came back", "Closing balance")
    columns = (Column("Currency", width=0), *(Column(name, figures=True) for name in names))
    sums = [
        [_code(one), *_figures(one, one["opening"], one["earned"]["net"], *_ends(one))]
        for one in document["currencies"]
    ]
    flow.headed((), Table(columns, sums, _PLAIN.size, bold=(5,)))
    flow.space(10.2)
    flow.text(
        "Closing balance = opening balance + earned − paid out + came back."
        " Earned is gross sales less refunds, disputes and fees.",
        _NOTE,
    )


def _currency(flow: Flow, document: Document, one: Document) -> None:
    """All of a currency: its sources, payouts and movements."""
    headings = [Heading(_code(one), Style(12, "Bold"), 22, 9, 1)]
    if one["sources"]:
        names = ("Sales", "Gross", "Refunds and disputes", "Fees", "Net")
        columns = (Column("Source", width=0, after=_OF_WORDS), *(Column(n, True) for n in names))
        rows = [[s["source"], *_sums(one, s)] for s in one["sources"]]
        total = ["Total", *_sums(one, one["earned"])]
        flow.headed([*headings, _titled("Earnings by source")], Table(columns, rows, 8.5, total))
        headings = []
    if one["payouts"]:
        columns = (
            Column("Date", width=28 * MM),
            Column("Payout", width=0, after=_OF_IDS),
            Column("Paid out", True),
            Column("Came back", True),
        )
        rows = [
            [_moment(p["at"]), p["id"], *_figures(one, p["amount"], p["returned"])]
            for p in one["payouts"]
        ]
        total = ["Total", "", *_figures(one, one["paid_out"], one["returned"])]
        flow.headed([*headings, _titled("Payouts")], Table(columns, rows, 8.5, total))
        headings = []
    columns = (
        Column("Date", width=25 * MM),
        Column("What", width=30 * MM, after=_OF_WORDS),
        Column("Reference", width=0, after=_OF_IDS),
        *(Column(name, True) for name in ("Gross", "Fee", "Amount", f"Balance {_code(one)}")),
    )
    opening, closing = _figures(one, one["opening"], one["closing"])
    rows = [
        [document["from"][:10], "Opening balance", "", "", "", "", opening],
        *(_line(one, line) for line in one["lines"]),
    ]
    total = [_last_day(document), "Closing balance", "", "", "", "", closing]
    flow.headed([*headings, _titled("All movements")], Table(columns, rows, 7.5, total))
    if any(line["kind"] == CORRECTION or line["at"] < document["from"] for line in one["lines"]):
        flow.space(9)
        flow.text(
            "Movements dated before this period, and corrections, came after the previous statement"
            " was made.",
            _NOTE,
        )


def _titled(text: str) -> Heading:
    return Heading(text, Style(9, "Bold", GREY), 14, 6, 2)


def _line(one: Document, line: Document) -> list[str]:
    what = str(_KINDS.get(line["kind"], line["kind"]))
    what += f", {line['source']}" if line["source"] else ""
    parts = _figures(one, line["gross"], line["fee"]) if line["source"] else ["", ""]
    ends = _figures(one, line["amount"], line["balance"])
    return [_moment(line["at"]), what, line["id"], *parts, *ends]


def _sums(one: Document, of: Document) -> list[str]:
    figures = _figures(one, of["gross"], of["refunds"], of["fees"], of["net"])
    return [str(of["sales"]), *figures]


def _ends(one: Document) -> tuple[int, int, int]:
    return one["paid_out"], one["returned"], one["closing"]


def _figures(one: Document, *amounts: int) -> list[str]:
    return [major(n, one["currency"]).replace("-", "\N{MINUS SIGN}") for n in amounts]


def _code(one: Document) -> str:
    return str(one["currency"]).upper()


def _title(document: Document) -> str:
    return f"Statement for {date.fromisoformat(document['from'][:10]):%B %Y}"


def _last_day(document: Document) -> str:
    return f"{date.fromisoformat(document['to'][:10]) - timedelta(days=1)}"


def _moment(at: str) -> str:
    return f"{at[:10]} {at[11:16]}"
