"""Pages by fpdf2 with text in any script and tables of figures; lengths are points.

fpdf2 cuts a word at each of its accents, which takes an Arabic one apart, and looks at one level of
direction only. So the runs of a text come from `letters`; fpdf2 shapes, breaks and draws them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unicodedata import category

from fpdf import FPDF
from fpdf.enums import TextDirection
from fpdf.line_break import Fragment, MultiLineBreak

from app.platform.statements.letters import BREAK, REGULAR, Run, base, in_fonts, runs

MM = 72 / 25.4
SIDE, TOP, BOTTOM = 18 * MM, 25 * MM, 20 * MM
"""Margins."""
GREY, FAINT = 95, 210
_LINE = 1.28
"""How high a line is, in parts of its text's size."""
_PLAIN, _PLAIN_RANGE = re.compile("[ -~\N{MINUS SIGN}]*"), "U+20-7E, U+2212"
"""Letters that need no shaping."""
_MAY_BREAK = re.compile(r"(?<=[:_/.])(?=.)")
_EDGE, _PADDING = 3.2, 1.5
"""Beside a cell's text, and above and below it."""
_WHOLE = 15
"""A table of no more rows is not broken."""
_TOGETHER = 2
"""As many rows at least are before a break of a table, and after it."""


class Style(NamedTuple):
    """How a text looks."""

    size: float
    weight: str = REGULAR
    """Regular where a font has no other."""
    grey: int = 0
    """0 is black, 255 is white."""


class Heading(NamedTuple):
    """A title, the space around it, and its level in the outline."""

    text: str
    style: Style
    above: float
    below: float
    level: int


class Column(NamedTuple):
    """One of a table: of words, or of figures that end at its right side."""

    name: str
    figures: bool = False
    width: float | None = None
    """None is what its cells need; 0 is what the others leave."""
    bold: bool = False


@dataclass
class Table:
    """A table of text, whose names are repeated on each page."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    size: float
    total: Sequence[str] = ()
    """Its last row, in bold."""


class _Run(Fragment):
    """It is drawn where it is given, whichever way it is read."""

    @property
    def fragment_direction(self) -> TextDirection:
        """See Fragment, whose lines are sorted by it."""
        return TextDirection.LTR

    def render_pdf_text(self, *where: float) -> str:
        """See Fragment; what is copied is the text, however many glyphs show a letter of it."""
        shown = super().render_pdf_text(*where)
        params = self.text_shaping_parameters
        leftward = params and params["fragment_direction"] is TextDirection.RTL
        # A reader turns a leftward text round letter by letter; without marks, a glyph is a letter.
        if leftward or not any(category(char)[0] == "M" for char in self.string):
            return shown
        return (
            f"/Span <</ActualText <FEFF{self.string.encode('utf-16-be').hex()}>>> BDC {shown} EMC"
        )


class _Row(NamedTuple):
    cells: Sequence[Sequence[str]]
    """The lines of each."""
    styles: Sequence[Style]
    height: float


class Sheet(FPDF):
    """A4, page after page."""

    def __init__(self) -> None:
        super().__init__(unit="pt", format="A4")
        self.set_margins(SIDE, TOP)
        self.set_auto_page_break(True, BOTTOM)
        self.c_margin = 0
        self.set_text_shaping(True)
        self._weight = REGULAR

    def look(self, style: Style) -> None:
        """What is written from now on looks like this."""
        self._weight = style.weight
        self.set_font(self._family(base(style.weight)), size=style.size)
        self.set_text_color(style.grey)

    def width(self, text: str, style: Style) -> float:
        """How wide a text is on one line."""
        self.look(style)
        return self.get_string_width(text)

    def lines(self, text: str, style: Style, width: float) -> list[str]:
        """Break a text at spaces, after the signs of an id, and in words wider than a line."""
        if self.width(text, style) <= width:
            return [text]
        parts = in_fonts(_MAY_BREAK.sub(BREAK, text), style.weight)
        breaker = MultiLineBreak([self._fragment(part) for part in parts], width, ())
        broken = (
            "".join(f.string for f in line.fragments) for line in iter(breaker.get_line, None)
        )
        return [line.replace(BREAK, "").strip(" ") for line in broken]

    def put(
        self,
        lines: Sequence[str],
        style: Style,
        x: float = SIDE,
        width: float = 0,
        align: str = "L",
    ) -> None:
        """Write lines below each other, from here on; a width of 0 ends at the margin."""
        self.look(style)
        for line in lines:
            self.set_x(x)
            self.cell(width, _LINE * style.size, line, align=align, new_y="NEXT")

    def head(self, heading: Heading) -> None:
        """Write a title."""
        if self.y > TOP:
            self.y += heading.above
        self.start_section(heading.text, heading.level)
        self.put([heading.text], heading.style)
        self.y += heading.below

    def put_table(self, table: Table, headings: Sequence[Heading] = ()) -> None:
        """A table below its headings, with at least its first rows on the same page as they are."""
        widths, (names, *rows) = self._laid(table)
        first = rows if len(rows) <= _WHOLE else rows[:_TOGETHER]
        titles = sum(h.above + _LINE * h.style.size + h.below for h in headings)
        self._keep(titles + names.height + sum(row.height for row in first))
        for heading in headings:
            self.head(heading)
        aligns = ["R" if column.figures else "L" for column in table.columns]

        def put(row: _Row, rule: float, grey: int) -> None:
            top, x = self.y, SIDE
            for lines, style, width, align in zip(
                row.cells, row.styles, widths, aligns, strict=True
            ):
                self.y = top + _PADDING
                self.put(lines, style, x + _EDGE, width - 2 * _EDGE, align)
                x += width
            self.y = top + row.height
            self.set_line_width(rule)
            self.set_draw_color(grey)
            self.line(SIDE, self.y, x, self.y)

        put(names, 0.7, 0)
        for number, row in enumerate(rows):
            left = rows[number:] if number == len(rows) - _TOGETHER else [row]
            if self._keep(sum(one.height for one in left)):
                put(names, 0.7, 0)
            put(row, 0.4, FAINT)

    def _laid(self, table: Table) -> tuple[list[float], list[_Row]]:
        """How wide its columns are; the row of its names, and its rows."""
        plain, strong = Style(table.size), Style(table.size, "Bold")
        styles = [strong if column.bold else plain for column in table.columns]
        rows = [([c.name for c in table.columns], [Style(7.5, "SemiBold")] * len(styles))]
        rows += [(list(row), styles) for row in table.rows]
        if table.total:
            rows.append((list(table.total), [strong] * len(styles)))
        widths = [
            max(self.width(row[n], looks[n]) for row, looks in rows) + 2 * _EDGE
            if column.width is None
            else column.width
            for n, column in enumerate(table.columns)
        ]
        widths[widths.index(0)] = self.epw - sum(widths)
        laid = list[_Row]()
        for row, looks in rows:
            cells = [
                [text] if column.figures else self.lines(text, style, width - 2 * _EDGE)
                for text, style, width, column in zip(
                    row, looks, widths, table.columns, strict=True
                )
            ]
            most = max(map(len, cells))
            laid.append(_Row(cells, looks, most * _LINE * looks[0].size + 2 * _PADDING))
        return widths, laid

    def _keep(self, length: float) -> bool:
        """Begin another page where there is not so much room left; whether it did."""
        full = self.y > TOP and self.will_page_break(length)
        if full:
            self.add_page()
        return full

    def _preload_bidirectional_text(self, text: str, markdown: bool) -> Sequence[Fragment]:
        return [self._fragment(run) for run in runs(text, self._weight)]

    def _fragment(self, run: Run) -> Fragment:
        state = self._get_current_graphics_state()
        state.font_family = self._family(run.font)
        state.current_font = self.fonts[state.font_family]
        direction = TextDirection.RTL if run.leftward else TextDirection.LTR
        state.text_shaping = None
        if run.leftward or not _PLAIN.fullmatch(run.text):
            assert self.text_shaping is not None
            state.text_shaping = {
                **self.text_shaping,
                "paragraph_direction": TextDirection.LTR,
                "fragment_direction": direction,
            }
        return _Run(run.text, state, self.k)

    def _family(self, font: Path) -> str:
        """What fpdf2 knows a font as."""
        family = font.stem.lower()
        if family not in self.fonts:
            # What letters it has is asked of HarfBuzz; fpdf2 would look at each of them first.
            self.add_font(family, fname=font, unicode_range=_PLAIN_RANGE)
        return family
