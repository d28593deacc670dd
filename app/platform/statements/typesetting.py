"""Text in any script, shaped by HarfBuzz and set on a PDF's page by fpdf2; lengths are points.

fpdf2's own text methods cut a word at each of its accents, which takes an Arabic one apart. Here it
embeds of each font what is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple
from unicodedata import category, combining, east_asian_width

import uharfbuzz as hb
from fpdf import FPDF
from fpdf.fonts import Glyph, TTFFont

from app.platform.statements.itemize import JOINERS, REGULAR, ZWJ, Run, file_of, runs

_EM = 1000
_VIRAMA = 9
"""The combining class of what joins two letters of an Indian script."""
_SKINS = range(0x1F3FB, 0x1F400)
"""Colours for the emoji before them."""


class Style(NamedTuple):
    """How a text looks."""

    size: float
    weight: str = REGULAR
    """Regular where a font has no other."""
    grey: float = 0.0
    """0 is black, 1 is white."""


class _Glyph(NamedTuple):
    """Lengths are thousandths of its size."""

    code: int
    shift: float
    """How far right of its place it is."""
    rise: float
    gap: float
    """How far its end is from where the next one begins."""


class _Part(NamedTuple):
    font: TTFFont
    glyphs: Sequence[_Glyph]
    """From left to right."""
    copied: str = ""
    """What they stand for, unless each says that of itself."""


class _Shaped(NamedTuple):
    parts: Sequence[_Part]
    width: float


class Typesetter:
    """Sets the text of one document, whose unit is the point."""

    def __init__(self, pdf: FPDF) -> None:
        self._pdf = pdf
        self._known: dict[tuple[str, str], _Shaped] = {}

    def width(self, text: str, style: Style) -> float:
        """How wide a text is on one line."""
        return self._shaped(text, style.weight).width * style.size / _EM

    def draw(self, x: float, y: float, text: str, style: Style) -> None:
        """Write a line on the current page. It begins at `x`; `y` is from the page's top to its
        baseline."""
        out = [f"BT {x:.2f} {self._pdf.h - y:.2f} Td {style.grey:.2f} g"]
        for font, glyphs, copied in self._shaped(text, style.weight).parts:
            out.append(self._pdf._set_font_for_page(font, style.size, wrap_in_text_object=False))
            shown = _operators(glyphs, style.size)
            if copied:
                actual = copied.encode("utf-16-be").hex().upper()
                shown = f"/Span <</ActualText <FEFF{actual}>>> BDC {shown} EMC"
            out.append(shown)
        self._pdf._out("\n".join([*out, "ET"]))

    def lines(self, text: str, style: Style, width: float, after: str = "") -> list[str]:
        """Break a text into lines: at spaces, after the letters in `after`, between those of
        Chinese and Japanese, and anywhere in a word wider than a line. Nothing is added."""
        if self.width(text, style) <= width:
            return [text]
        made, line = list[str](), ""
        for space, piece in _pieces(text, after):
            joined = f"{line}{space}{piece}" if line else piece
            if self.width(joined, style) <= width:
                line = joined
            elif self.width(piece, style) <= width:
                made.append(line)
                line = piece
            else:
                *whole, line = self._cut(line and line + space, piece, style, width)
                made.extend(whole)
        return [*made, line]

    def _cut(self, begun: str, word: str, style: Style, width: float) -> Iterator[str]:
        """The lines of a word that is wider than one, the first behind what is `begun`."""
        rest = clusters(word)
        while rest:
            fits, most = 0, len(rest)
            while fits < most:
                middle = (fits + most + 1) // 2
                if self.width(begun + "".join(rest[:middle]), style) <= width:
                    fits = middle
                else:
                    most = middle - 1
            # A hyphen at the end of a line is not copied.
            while 1 < fits < len(rest) and rest[fits - 1] == "-":
                fits -= 1
            if not begun:
                fits = max(fits, 1)
            yield (begun + "".join(rest[:fits])).rstrip(" ")
            begun, rest = "", rest[fits:]

    def _shaped(self, text: str, weight: str) -> _Shaped:
        key = (text, weight)
        if key not in self._known:
            made = [self._shape(run, weight) for run in runs(text)]
            parts = [part for one in made for part in one.parts]
            self._known[key] = _Shaped(parts, sum(one.width for one in made))
        return self._known[key]

    def _shape(self, run: Run, weight: str) -> _Shaped:
        font = self._font(run, weight)
        buffer = hb.Buffer()
        if run.leftward:
            # A reader of the file turns letters round one by one, so no two are in one cluster.
            buffer.cluster_level = hb.BufferClusterLevel.MONOTONE_CHARACTERS
        buffer.add_str(run.text)
        buffer.guess_segment_properties()
        buffer.direction = "rtl" if run.leftward else "ltr"
        hb.shape(font.hbfont, buffer)
        parts, width = list[_Part](), 0.0
        # A cluster is some letters, and the glyphs that show them.
        begins = sorted({info.cluster for info in buffer.glyph_infos})
        ends = dict(zip(begins, [*begins[1:], len(run.text)], strict=True))
        placed = zip(buffer.glyph_infos, buffer.glyph_positions, strict=True)
        for begin, cluster in groupby(placed, key=lambda both: both[0].cluster):
            letters, glyphs = run.text[begin : ends[begin]], list[_Glyph]()
            for info, position in cluster:
                glyphs.append(_glyph(font, info, position, letters if not glyphs else ""))
                width += font.scale * position.x_advance
            parts.append(_Part(font, glyphs, letters if len(glyphs) > 1 else ""))
        if not run.leftward:
            every = [glyph for part in parts for glyph in part.glyphs]
            plain = len(parts) == len(every) == len(run.text)
            parts = [_Part(font, every, "" if plain else run.text)]
        return _Shaped(parts, width)

    def _font(self, run: Run, weight: str) -> TTFFont:
        path = file_of(run, weight)
        key = path.stem.lower()
        if key not in self._pdf.fonts:
            # What letters it has is asked of HarfBuzz; fpdf2 would look at each of them first.
            self._pdf.add_font(path.stem, fname=path, unicode_range=[ord(" ")])
        font = self._pdf.fonts[key]
        assert isinstance(font, TTFFont)
        return font


def clusters(word: str) -> list[str]:
    """What is one letter to a reader: with its accents, or joined to the next."""
    made = list[str]()
    for char in word:
        before = made[-1][-1] if made else ""
        joined = before == ZWJ or (before and combining(before) == _VIRAMA)
        if before and (
            joined or category(char)[0] == "M" or char in JOINERS or ord(char) in _SKINS
        ):
            made[-1] += char
        else:
            made.append(char)
    return made


def _pieces(text: str, after: str) -> Iterator[tuple[str, str]]:
    """What a line may not be broken in, and the space before it."""
    for number, word in enumerate(text.split(" ")):
        space, piece = " " if number else "", ""
        for one in clusters(word):
            if piece and (piece[-1] in after or _wide(piece[-1]) or _wide(one[0])):
                yield space, piece
                space = piece = ""
            piece += one
        yield space, piece


def _wide(char: str) -> bool:
    return east_asian_width(char) in "WF"


def _glyph(font: TTFFont, info: hb.GlyphInfo, position: hb.GlyphPosition, letters: str) -> _Glyph:
    """A glyph as it was shaped, and embedded: it says which letters it stands for."""
    name = font.ttfont.getGlyphName(info.codepoint)
    natural = round(font.scale * font.ttfont["hmtx"].metrics[name][0])
    code = font.subset.pick_glyph(Glyph(info.codepoint, tuple(map(ord, letters)), name, natural))
    assert code is not None
    shift, rise = font.scale * position.x_offset, font.scale * position.y_offset
    return _Glyph(code, shift, rise, font.scale * position.x_advance - natural - shift)


def _operators(glyphs: Sequence[_Glyph], size: float) -> str:
    """What shows glyphs in a PDF's content."""
    out, codes = "[", ""
    for glyph in glyphs:
        if glyph.shift or glyph.rise:
            out, codes = out + (f"<{codes}>" if codes else "") + f"{-glyph.shift:.0f}", ""
        if glyph.rise:
            out += f"] TJ {glyph.rise * size / _EM:.2f} Ts ["
        codes += f"{glyph.code:04X}"
        if glyph.rise:
            out, codes = f"{out}<{codes}>] TJ 0 Ts [", ""
        if gap := round(glyph.gap):
            out, codes = out + (f"<{codes}>" if codes else "") + str(-gap), ""
    return out + (f"<{codes}>" if codes else "") + "] TJ"
