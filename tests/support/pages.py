"""The pages as they are run: README, CONTRIBUTING and docs/, each by its fenced blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt

from app.platform.config import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
_NUMBER = re.compile(r"^\d+\. ")


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
    heading, found = "", list[Block]()
    for before, token in pairwise(MarkdownIt().parse(path_of(page).read_text())):
        if (before.type, before.tag) == ("heading_open", "h2"):
            heading = _NUMBER.sub("", token.content)
        elif token.type == "fence" and kind in (None, token.info.partition(" ")[0]):
            found.append(Block(heading, token.info, token.content))
    return found


def sections(page: str) -> dict[str, list[Block]]:
    """The blocks of each section that has any."""
    found: dict[str, list[Block]] = {}
    for block in blocks(page):
        found.setdefault(block.heading, []).append(block)
    return found


def prose(page: str) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", path_of(page).read_text(), flags=re.M | re.S)
