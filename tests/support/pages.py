"""The pages as they are run: README, CONTRIBUTING and docs/, each by its fenced blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.platform.config import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
_HEADING = re.compile(r"^## (?:\d+\. )?(.*)$")
_FENCE = re.compile(r"^```(.*)$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: the heading that it is below, what kind it is, and its lines."""

    heading: str
    kind: str
    text: str


def path_of(page: str) -> Path:
    """Where the page of a file name is."""
    [path] = [path for path in PAGES if path.name == page]
    return path


def blocks(page: str, kind: str | None = None) -> list[Block]:
    """The blocks of a page, or those of one kind."""
    found = _blocks(path_of(page).read_text())
    return [block for block in found if kind in (None, block.kind.partition(" ")[0])]


def _blocks(text: str) -> Iterator[Block]:
    heading, kind = "", None
    lines: list[str] = []
    for line in text.splitlines():
        fence = _FENCE.match(line)
        if fence is not None and kind is not None:
            yield Block(heading, kind, "\n".join([*lines, ""]))
            kind = None
        elif fence is not None:
            kind, lines = fence[1], []
        elif kind is not None:
            lines.append(line)
        elif (named := _HEADING.match(line)) is not None:
            heading = named[1]


def sections(page: str) -> dict[str, list[Block]]:
    """The blocks of each section that has any."""
    found: dict[str, list[Block]] = {}
    for block in blocks(page):
        found.setdefault(block.heading, []).append(block)
    return found


def prose(page: str) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", path_of(page).read_text(), flags=re.M | re.S)
