"""Headings, text and tables of figures, laid out on pages; lengths are points, from the top left.

Pages are made of marks, which are drawn once it is known how many pages there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from app.platform.statements.typesetting import Style, Typesetter

MM = 72 / 25.4
WIDTH, HEIGHT = 210 * MM, 297 * MM
LEFT, RIGHT = 18 * MM, WIDTH - 18 * MM
TOP, BOTTOM = 26 * MM, HEIGHT - 20 * MM
ASCENT, DESCENT, LEADING = 0.76, 0.22, 0.3
"""In parts of a text's size; one height for a line, whatever scripts are in it."""
GREY, FAINT = 95 / 255, 210 / 255
_GAP, _EDGE, _PADDING = 5.5, 2.0, 2.6
_WHOLE = 15
"""A table of no more rows is not broken."""
_TOGETHER = 2
"""As many rows at least are before a break of a table, and after it."""


class Words(NamedTuple):
    """A line of text; `y` is its baseline."""

    x: float
    y: float
    text: str
    style: Style


class Rule(NamedTuple):
    """A line from one side to the other."""

    y: float
    width: float
    grey: float


class Section(NamedTuple):
    """Where a part of the document begins, for its outline."""

    y: float
    name: str
    level: int


Mark = Words | Rule | Section


class Heading(NamedTuple):
    """A title and the space around it."""

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
    after: str = ""
    """After which letters a line may be broken besides spaces."""


class Table(NamedTuple):
    """A table of text, whose names are repeated on each page."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    size: float
    total: Sequence[str] | None = None
    """Its last row, in bold."""
    bold: Sequence[int] = ()
    """Which columns are in bold."""


class _Row(NamedTuple):
    cells: Sequence[Sequence[Words]]
    """Their lines, as if the row began at the top of the page."""
    height: float


class Flow:
    """What is on the pages so far, and where the next thing goes."""

    def __init__(self, setter: Typesetter) -> None:
        self._setter = setter
        self.pages: list[list[Mark]] = [[]]
        self.y = self._ends = TOP

    def text(
        self,
        text: str,
        style: Style,
        *,
        x: float = LEFT,
        after: str = "",
        label: Words | None = None,
    ) -> None:
        """Lines from `x` to the right margin, on one page, the first beside a label."""
        lines = _stacked(self._setter.lines(text, style, RIGHT - x, after), x, style)
        self._keep(height(style.size, len(lines)))
        self._put([*([label._replace(y=lines[0].y)] if label else []), *lines])
        self._ends = self.y = self.y + height(style.size, len(lines))

    def heading(self, heading: Heading) -> None:
        """A title; whether there is room for what it is above is not looked at."""
        self.space(heading.above)
        self.pages[-1].append(Section(self.y, heading.text, heading.level))
        self.text(heading.text, heading.style)
        self.space(heading.below)

    def space(self, length: float) -> None:
        """Leave so much room below what is there, if not more is left already."""
        if self._ends > TOP:
            self.y = max(self.y, self._ends + length)

    def headed(self, headings: Sequence[Heading], table: Table) -> None:
        """A table below its headings, with at least its first rows on the same page as they are."""
        names, rows = _laid(table, self._setter)
        first = rows if len(table.rows) <= _WHOLE else rows[:_TOGETHER]
        titles = sum(h.above + height(h.style.size) + h.below for h in headings)
        needs = names.height + sum(row.height for row in first)
        if needs > BOTTOM - TOP - titles:
            needs = names.height + sum(row.height for row in rows[:_TOGETHER])
        self._keep(titles + needs)
        for heading in headings:
            self.heading(heading)
        self._row(names, 0.7, 0.0)
        for number, row in enumerate(rows):
            left = rows[number : number + _TOGETHER] if number == len(rows) - _TOGETHER else [row]
            if self.y + sum(one.height for one in left) > BOTTOM:
                self._next_page()
                self._row(names, 0.7, 0.0)
            self._row(row, 0.4, FAINT)

    def _row(self, row: _Row, width: float, grey: float) -> None:
        for cell in row.cells:
            self._put(cell)
        self._ends = self.y = self.y + row.height
        self.pages[-1].append(Rule(self.y, width, grey))

    def _put(self, lines: Sequence[Words]) -> None:
        self.pages[-1].extend(line._replace(y=line.y + self.y) for line in lines)

    def _keep(self, length: float) -> None:
        if self.y + length > BOTTOM and self.y > TOP:
            self._next_page()

    def _next_page(self) -> None:
        self.pages.append([])
        self.y = self._ends = TOP


def height(size: float, lines: int = 1) -> float:
    """How high so many lines are."""
    return size * (lines * (ASCENT + DESCENT) + (lines - 1) * LEADING)


def _stacked(lines: Sequence[str], x: float, style: Style) -> list[Words]:
    step = (ASCENT + DESCENT + LEADING) * style.size
    return [
        Words(x, ASCENT * style.size + number * step, line, style)
        for number, line in enumerate(lines)
    ]


def _laid(table: Table, setter: Typesetter) -> tuple[_Row, list[_Row]]:
    """A table's row of names, and its rows."""
    name_style = Style(7.5, "SemiBold")
    plain, strong = Style(table.size), Style(table.size, "Bold")
    styles = [strong if n in table.bold else plain for n in range(len(table.columns))]
    rows = [(row, styles) for row in table.rows]
    if table.total is not None:
        rows.append((table.total, [strong] * len(table.columns)))
    names = ([column.name for column in table.columns], [name_style] * len(table.columns))
    edges, x = list[tuple[float, float]](), LEFT
    for width in _widths(table.columns, [names, *rows], setter):
        edges.append((x + (_GAP if edges else _EDGE), x + width - _EDGE))
        x += width

    def laid(cells: Sequence[str], styles: Sequence[Style], named: bool = False) -> _Row:
        made, most = list[list[Words]](), 1
        for text, style, column, (left, right) in zip(
            cells, styles, table.columns, edges, strict=True
        ):
            if column.figures:
                words = _stacked([text], right - setter.width(text, style), style)
            else:
                lines = setter.lines(text, style, right - left, column.after)
                words = _stacked([text] if named else lines, left, style)
            most = max(most, len(words))
            made.append([w._replace(y=w.y + _PADDING) for w in words if w.text])
        return _Row(made, height(styles[0].size, most) + 2 * _PADDING)

    return laid(*names, named=True), [laid(*row) for row in rows]


def _widths(
    columns: Sequence[Column],
    rows: Sequence[tuple[Sequence[str], Sequence[Style]]],
    setter: Typesetter,
) -> list[float]:
    made = list[float]()
    for number, column in enumerate(columns):
        if column.width is not None:
            made.append(column.width)
            continue
        widest = max(setter.width(cells[number], styles[number]) for cells, styles in rows)
        made.append(widest + (_GAP if number else _EDGE) + _EDGE)
    rest = RIGHT - LEFT - sum(made)
    return [width or rest for width in made]
