"""A line of text cut into runs, each of one font, script and direction: any script there is.

Of the fonts beside this file a process opens those that it needs, or all of them (it takes some
milliseconds) to look for a letter that Noto Sans does not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from unicodedata import bidirectional, category

import uharfbuzz as hb
from fpdf.bidi import BidiParagraph
from fpdf.enums import TextDirection
from fpdf.unicode_script import UnicodeScript, get_unicode_script

FONTS = Path(__file__).with_name("fonts")
JOINERS = ZWNJ, ZWJ = "\u200c", "\u200d"
REGULAR = "Regular"
_LATIN = "NotoSans"
"""It has Greek and Cyrillic too."""
_ANY_SCRIPT = (UnicodeScript.COMMON, UnicodeScript.INHERITED, UnicodeScript.UNKNOWN)


class Run(NamedTuple):
    """A part of a line; `family` is empty where no font has its letters."""

    family: str
    text: str
    leftward: bool = False


def runs(text: str) -> list[Run]:
    """From left to right, as Unicode's bidirectional algorithm (UAX 9) has them."""
    if not any(bidirectional(char) in ("R", "AL", "AN") for char in text):
        return list(_itemized(text, False))
    paragraph = BidiParagraph(text, TextDirection.LTR, preserve_bn_chars=True)
    made = list[Run]()
    ordered = paragraph.get_reordered_characters()
    for level, chars in groupby(ordered, key=lambda char: char.embedding_level):
        places = [char.character_index for char in chars]
        leftward = level % 2 == 1
        part = list(_itemized(text[min(places) : max(places) + 1], leftward))
        made += part[::-1] if leftward else part
    return made


def file_of(run: Run, weight: str) -> Path:
    """The font of a run in a weight; in Regular where that has not all its letters."""
    family = run.family or _LATIN
    path = _files().get(f"{family}-{weight}")
    if path is not None and all(ord(char) in _letters(path) for char in run.text):
        return path
    return _files()[f"{family}-{REGULAR}"]


def _itemized(text: str, leftward: bool) -> Iterator[Run]:
    """The runs of a text of one direction, in the order in which it is read."""
    start, family, script = 0, "", UnicodeScript.COMMON
    for place, char in enumerate(text):
        # Accents and joiners are their letter's, wherever else they are.
        stays = place > 0 and (category(char)[0] == "M" or char in JOINERS)
        its_family = family if stays else _family_of(char, family)
        its_script = get_unicode_script(char)
        if stays or its_script in _ANY_SCRIPT:
            its_script = script
        if place and its_family == family and script == UnicodeScript.COMMON:
            script = its_script
        if place and (its_family, its_script) != (family, script):
            yield Run(family, text[start:place], leftward)
            start = place
        family, script = its_family, its_script
    if text:
        yield Run(family, text[start:], leftward)


def _family_of(char: str, before: str) -> str:
    """Noto Sans where it has the letter, else the font of the letter before, else the smallest."""
    for family in (_LATIN, before):
        if family and ord(char) in _letters(_files()[f"{family}-{REGULAR}"]):
            return family
    return _smallest(char)


@cache
def _smallest(char: str) -> str:
    """The family that has a letter in the smallest file; empty where none has it."""
    for path in _by_size():
        if ord(char) in _letters(path):
            return path.stem.removesuffix(f"-{REGULAR}")
    return ""


@cache
def _letters(path: Path) -> hb.Set:
    return hb.Face(hb.Blob.from_file_path(str(path))).unicodes


@cache
def _by_size() -> list[Path]:
    regular = (path for path in _files().values() if path.stem.endswith(f"-{REGULAR}"))
    return sorted(regular, key=lambda path: (path.stat().st_size, path.stem))


@cache
def _files() -> dict[str, Path]:
    """By family and weight."""
    return {path.stem: path for path in FONTS.iterdir() if path.suffix in (".ttf", ".otf")}
