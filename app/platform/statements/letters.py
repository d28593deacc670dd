"""Splits text into runs of one font and direction, with the fonts beside this file.

A process opens the fonts that it needs, or all of them (in some milliseconds) to find a letter
that Noto Sans lacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from unicodedata import bidirectional, category

import uharfbuzz as hb
from fpdf.bidi import BidiParagraph
from fpdf.enums import TextDirection

FONTS = Path(__file__).with_name("fonts")
REGULAR = "Regular"
BREAK = "\u200b"
"""Marks where a line may be broken. It is not shown."""
_JOINERS = "\u200c\u200d"
_MISSING = "\N{REPLACEMENT CHARACTER}"


class Run(NamedTuple):
    """A part of a line."""

    font: Path
    text: str
    leftward: bool = False


@lru_cache(1000)
def runs(text: str, weight: str = REGULAR) -> Sequence[Run]:
    """The runs from left to right, by Unicode's bidirectional algorithm (UAX 9)."""
    if not any(bidirectional(char) in ("R", "AL", "AN") for char in text):
        return list(in_fonts(text, weight))
    paragraph = BidiParagraph(text, TextDirection.LTR, preserve_bn_chars=True)
    ordered = paragraph.get_reordered_characters()
    shown = list[Run]()
    for level, chars in groupby(ordered, key=lambda char: char.embedding_level):
        places = [char.character_index for char in chars]
        part = list(in_fonts(text[min(places) : max(places) + 1], weight))
        leftward = level % 2 == 1
        shown += [run._replace(leftward=True) for run in part[::-1]] if leftward else part
    return shown


def in_fonts(text: str, weight: str) -> Iterator[Run]:
    """The runs of a text in reading order, whatever its direction."""
    start, font = 0, base(weight)
    text = "".join(char if _is_shown(char) else _MISSING for char in text)
    for place, char in enumerate(text):
        # Accents and joiners use the font of their letter.
        its = font if place and is_accent(char) else _font_of(char, weight, font)
        if place and its != font:
            yield Run(font, text[start:place])
            start = place
        font = its
    if text:
        yield Run(font, text[start:])


def is_accent(char: str) -> bool:
    """Whether the character belongs to the letter before it."""
    return category(char)[0] == "M" or char in _JOINERS


def base(weight: str) -> Path:
    """Noto Sans in this weight."""
    return _fonts(weight)[0]


@lru_cache(1000)
def _is_shown(char: str) -> bool:
    return is_accent(char) or any(ord(char) in _letters(font) for font in _fonts(REGULAR))


@lru_cache(1000)
def _font_of(char: str, weight: str, before: Path) -> Path:
    """Noto Sans if it has the letter, or else the previous letter's font, or else the smallest."""
    fonts = (base(weight), before, *_fonts(weight))
    return next(font for font in fonts if ord(char) in _letters(font))


@cache
def _letters(font: Path) -> hb.Set:
    return hb.Face(hb.Blob.from_file_path(str(font))).unicodes


@cache
def _fonts(weight: str) -> list[Path]:
    """The fonts: those of this weight before regular ones, Noto Sans first, then by size."""

    def order(font: Path) -> tuple[bool, bool, int, str]:
        family, _, its = font.stem.partition("-")
        return its != weight, family != "NotoSans", font.stat().st_size, font.stem

    files = (path for path in FONTS.iterdir() if path.suffix in (".ttf", ".otf"))
    return sorted((f for f in files if f.stem.endswith((weight, REGULAR))), key=order)
