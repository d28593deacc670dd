"""Makes a statement's PDF from its document alone: equal documents give equal bytes."""

from __future__ import annotations

from datetime import date, datetime, timedelta

from app.platform.statements.document import CORRECTION, PAYOUT, RETURNED, Document, major
from app.platform.statements.sheet import FAINT, GREY, MM, SIDE, TOP, Column, Heading, Sheet, Style

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
_HEAD, _HEAD_RULE, _FOOT = 34.0, 51.6, 800.0
"""Distances from the top of the page."""
_NOTE, _PLATFORM, _NUMBER = Style(7.5, grey=GREY), Style(8, "Bold"), Style(8, grey=GREY)


def made(document: Document) -> bytes:
    """The PDF of a document."""
    pdf = _Statement(document)
    pdf.add_page()
    _overview(pdf, document)
    for one in document["currencies"]:
        _currency(pdf, document, one)
    pdf.number_pages()
    return bytes(pdf.output())


class _Statement(Sheet):
    """A sheet with the platform and the statement's id on each page."""

    def __init__(self, document: Document) -> None:
        super().__init__()
        self._platform, self._number = document["platform"], f"Statement {document['id']}"
        self.set_title(_title(document))
        self.set_author(self._platform)
        self.set_lang("en")
        # Not the present time, so that equal documents give equal bytes.
        self.set_creation_date(datetime.fromisoformat(document["to"]))

    def header(self) -> None:
        """See FPDF."""
        number = self.lines(self._number, _NUMBER, 0.7 * self.epw)
        beside = max(self.width(line, _NUMBER) for line in number)
        platform = self.lines(self._platform, _PLATFORM, self.epw - beside - 8)
        self.y = top = _HEAD - 10 * (max(len(number), len(platform)) - 1)
        self.put(platform, _PLATFORM)
        self.y = top
        self.put(number, _NUMBER, align="R")
        self.y = _HEAD_RULE
        self.rule(FAINT, 0.4)
        self.y = TOP

    def number_pages(self) -> None:
        """Write the page number and the number of pages at the foot of each page."""
        self.set_auto_page_break(False)
        for number in self.pages:
            self.page = number
            self.current_font_is_set_on_page = False
            self.y = _FOOT
            self.put(["All times are UTC."], _NOTE)
            self.y = _FOOT
            self.put([f"Page {number} of {len(self.pages)}"], _NOTE, align="R")


def _overview(pdf: Sheet, document: Document) -> None:
    """Write the creator, the month and its totals."""
    pdf.head(Heading(_title(document), Style(17, "Bold"), 0, 9, 0))
    who = document["creator"]
    rows = (
        ("Creator", who["name"], _STRONG),
        ("Account", f"{who['id']} ({who['country']})", _PLAIN),
        ("Period", f"{document['from'][:10]} to {_last_day(document)}, UTC", _PLAIN),
    )
    indent = SIDE + 14 + max(pdf.width(name, _LABEL) for name, *_ in rows)
    for name, value, style in rows:
        pdf.y += 3.5
        top = pdf.y
        pdf.put([name], _LABEL)
        pdf.y = top
        pdf.put(pdf.lines(value, style, pdf.w - SIDE - indent), style, x=indent)
    pdf.y += 17
    if not document["currencies"]:
        nothing = "There were no sales, refunds or payouts in this month, and there is no balance."
        pdf.put([nothing], _PLAIN)
        return
    columns = (
        Column("Currency", width=0),
        *_of_figures("Opening balance", "Earned", "Paid out", "Came back"),
        Column("Closing balance", figures=True, bold=True),
    )
    sums = list[list[str]]()
    for one in document["currencies"]:
        ends = (one["paid_out"], one["returned"], one["closing"])
        sums.append([_code(one), *_figures(one, one["opening"], one["earned"]["net"], *ends)])
    pdf.put_table(columns, sums, _PLAIN.size)
    pdf.y += 8
    says = (
        "Closing balance = opening balance + earned − paid out + came back."
        " Earned is gross sales less refunds, disputes and fees."
    )
    pdf.put([says], _NOTE)


def _currency(pdf: Sheet, document: Document, one: Document) -> None:
    """Write a currency's sources, payouts and movements."""
    headings = [Heading(_code(one), Style(12, "Bold"), 20, 0, 1)]

    def put(
        title: str, columns: list[Column], rows: list[list[str]], total: list[str], size: float
    ) -> None:
        """Write a table, the first one below the currency's own heading."""
        headings.append(Heading(title, Style(9, "Bold", GREY), 12, 3.5, 2))
        pdf.put_table(columns, rows, size, total=total, headings=headings)
        headings.clear()

    if one["sources"]:
        columns = [Column("Source", width=0)]
        columns += _of_figures("Sales", "Gross", "Refunds and disputes", "Fees", "Net")
        rows = [[s["source"], *_sums(one, s)] for s in one["sources"]]
        total = ["Total", *_sums(one, one["earned"])]
        put("Earnings by source", columns, rows, total, 8.5)
    if one["payouts"]:
        columns = [Column("Date", width=28 * MM), Column("Payout", width=0)]
        columns += _of_figures("Paid out", "Came back")
        rows = [
            [_moment(p["at"]), p["id"], *_figures(one, p["amount"], p["returned"])]
            for p in one["payouts"]
        ]
        total = ["Total", "", *_figures(one, one["paid_out"], one["returned"])]
        put("Payouts", columns, rows, total, 8.5)
    columns = [Column("Date", width=25 * MM), Column("What", width=30 * MM)]
    columns += [Column("Reference", width=0)]
    columns += _of_figures("Gross", "Fee", "Amount", f"Balance {_code(one)}")
    opening, closing = _figures(one, one["opening"], one["closing"])
    first = [document["from"][:10], "Opening balance", "", "", "", "", opening]
    total = [_last_day(document), "Closing balance", "", "", "", "", closing]
    rows = [first, *(_line(one, line) for line in one["lines"])]
    put("All movements", columns, rows, total, 7.5)
    if any(line["kind"] == CORRECTION for line in one["lines"]):
        pdf.y += 7
        pdf.put(["A correction is what was booked after the previous statement was made."], _NOTE)


def _of_figures(*names: str) -> list[Column]:
    return [Column(name, figures=True) for name in names]


def _line(one: Document, line: Document) -> list[str]:
    what = str(_KINDS.get(line["kind"], line["kind"]))
    what += f", {line['source']}" if line["source"] else ""
    parts = _figures(one, line["gross"], line["fee"]) if line["source"] else ["", ""]
    ends = _figures(one, line["amount"], line["balance"])
    return [_moment(line["at"]), what, line["id"], *parts, *ends]


def _sums(one: Document, of: Document) -> list[str]:
    figures = _figures(one, of["gross"], of["refunds"], of["fees"], of["net"])
    return [str(of["sales"]), *figures]


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
