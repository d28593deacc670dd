"""Pages with text in any script and tables of figures, by fpdf2. Lengths are in points.

fpdf2 splits words at accents, which breaks Arabic ones, and handles only one level of direction.
The runs of a text therefore come from `letters`, and fpdf2 shapes, breaks and draws them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from unicodedata import category

from fpdf import FPDF
from fpdf.enums import TextDirection
from fpdf.line_break import Fragment, MultiLineBreak

from app.platform.statements.letters import BREAK, REGULAR, Run, base, in_fonts, is_accent, runs

MM = 72 / 25.4
SIDE, TOP, BOTTOM = 18 * MM, 25 * MM, 20 * MM
"""The margins."""
GREY, FAINT = 95, 210
_LINE = 1.28
"""The height of a line, relative to the size of its text."""
_PLAIN, _PLAIN_RANGE = re.compile("[ -~\N{MINUS SIGN}]*"), "U+20-7E, U+2212"
"""Characters that need no shaping."""
_MAY_BREAK = re.compile(r"(?<=[:_/.])(?=.)")
_EDGE, _PADDING = 3.2, 1.5
"""The space beside a cell's text, and above and below it."""
_LEAST = 45
"""The least width that the other columns leave."""
_WHOLE = 15
"""A table with at most this many rows is not broken."""
_TOGETHER = 2
"""The least number of rows before and after a break of a table."""


class Style(NamedTuple):
    """The look of a text."""

    size: float
    weight: str = REGULAR
    """Fonts without this weight use Regular."""
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
    """A column of a table, with words, or with figures aligned to the right."""

    name: str
    figures: bool = False
    width: float | None = None
    """None takes the width of its cells; 0 takes what the others leave."""
    bold: bool = False


class _Run(Fragment):
    """A run that is drawn where it is placed, in whichever direction it is read."""

    @property
    def fragment_direction(self) -> TextDirection:
        """See Fragment, which sorts the runs of a line by it."""
        return TextDirection.LTR

    def render_pdf_text(self, *where: float) -> str:
        """See Fragment. Copied text is correct, however many glyphs a letter has."""
        shown = super().render_pdf_text(*where)
        params = self.text_shaping_parameters
        leftward = params and params["fragment_direction"] is TextDirection.RTL
        # Readers reverse a leftward text letter by letter. Without marks, each glyph is a letter.
        if leftward or not any(category(char)[0] == "M" for char in self.string):
            return shown
        return (
            f"/Span <</ActualText <FEFF{self.string.encode('utf-16-be').hex()}>>> BDC {shown} EMC"
        )


class Sheet(FPDF):
    """A document of A4 pages."""

    def __init__(self) -> None:
        super().__init__(unit="pt", format="A4")
        self.set_margins(SIDE, TOP)
        self.set_auto_page_break(True, BOTTOM)
        self.c_margin = 0
        self.set_text_shaping(True)
        self._weight = REGULAR

    def look(self, style: Style) -> None:
        """Set the style for the following text."""
        self._weight = style.weight
        self.set_font(self._family(base(style.weight)), size=style.size)
        self.set_text_color(style.grey)

    def width(self, text: str, style: Style) -> float:
        """The width of a text on one line."""
        self.look(style)
        return self.get_string_width(text)

    def lines(self, text: str, style: Style, width: float) -> list[str]:
        """Break a text at spaces, after punctuation in ids, and in words wider than a line."""
        if self.width(text, style) <= width:
            return [text]
        parts = [self._fragment(r) for r in in_fonts(_MAY_BREAK.sub(BREAK, text), style.weight)]
        for part in parts:  # no line begins with an accent
            letters = list[str]()
            for char in part.characters:
                if letters and is_accent(char):
                    letters[-1] += char
                else:
                    letters.append(char)
            part.characters = letters
        broken = iter(MultiLineBreak(parts, width, ()).get_line, None)
        lines = ("".join(part.string for part in line.fragments) for line in broken)
        return [line.replace(BREAK, "").strip(" ") for line in lines]

    def put(
        self,
        lines: Sequence[str],
        style: Style,
        x: float = SIDE,
        width: float = 0,
        align: str = "L",
    ) -> None:
        """Write lines below each other from here on. With a width of 0, they end at the margin."""
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

    def put_table(
        self,
        columns: Sequence[Column],
        rows: Sequence[Sequence[str]],
        size: float,
        *,
        total: Sequence[str] | None = None,
        headings: Sequence[Heading] = (),
    ) -> None:
        """Write a table, with its column names on each page and its total in bold. Its first rows
        are always on the same page as the headings."""
        texts = [[column.name for column in columns], *rows, *([total] if total else [])]
        last = len(texts) - 1

        def style(row: int, column: Column) -> Style:
            if row == 0:
                return Style(7.5, "SemiBold")
            return Style(size, "Bold" if column.bold or (total and row == last) else REGULAR)

        def wide(n: int, column: Column) -> float:
            if column.width is not None:
                return column.width
            cells = (self.width(text[n], style(row, column)) for row, text in enumerate(texts))
            return max(cells) + 2 * _EDGE

        widths = [wide(*one) for one in enumerate(columns)]
        while (rest := self.epw - sum(widths)) < _LEAST:  # figures are never broken
            size *= 0.9
            widths = [wide(*one) for one in enumerate(columns)]
        widths[widths.index(0)] = rest
        room = [width - 2 * _EDGE for width in widths]
        cells = [
            [
                [text] if column.figures else self.lines(text, style(row, column), width)
                for text, column, width in zip(line, columns, room, strict=True)
            ]
            for row, line in enumerate(texts)
        ]
        heights = [
            max(map(len, line)) * _LINE * style(row, columns[0]).size + 2 * _PADDING
            for row, line in enumerate(cells)
        ]

        def put(row: int) -> None:
            top, x = self.y, SIDE
            for lines, column, width in zip(cells[row], columns, widths, strict=True):
                self.y, align = top + _PADDING, "R" if column.figures else "L"
                self.put(lines, style(row, column), x + _EDGE, width - 2 * _EDGE, align)
                x += width
            self.y = top + heights[row]
            self.rule(FAINT if row else 0, 0.4 if row else 0.7)

        titles = sum(h.above + _LINE * h.style.size + h.below for h in headings)
        self._keep(titles + sum(heights if last <= _WHOLE else heights[: 1 + _TOGETHER]))
        for heading in headings:
            self.head(heading)
        put(0)
        for row in range(1, last + 1):
            together = _TOGETHER if row == last + 1 - _TOGETHER else 1
            if self._keep(sum(heights[row : row + together])):
                put(0)
            put(row)

    def rule(self, grey: int, width: float) -> None:
        """Draw a line across the page here."""
        self.set_line_width(width)
        self.set_draw_color(grey)
        self.line(SIDE, self.y, self.w - SIDE, self.y)

    def _keep(self, length: float) -> bool:
        """Begin a new page if there is less room than `length`. Returns whether it did."""
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
        """The family under which fpdf2 knows a font."""
        family = font.stem.lower()
        if family not in self.fonts:
            # HarfBuzz knows its letters; fpdf2 would examine every one of them first.
            self.add_font(family, fname=font, unicode_range=_PLAIN_RANGE)
        return family
