"""Pages of docs/ as they are run: their code blocks, by the heading that they are below."""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.platform.config import ROOT

_HEADING = re.compile(r"^## (?:\d+\. )?(.*)$")
_FENCE = re.compile(r"^```(.*)$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: what kind it is, and its lines."""

    kind: str
    text: str


def sections(page: str = "adopt.md") -> dict[str, list[Block]]:
    """The blocks of each section."""
    found: dict[str, list[Block]] = {}
    heading, kind = "", ""
    lines: list[str] = []
    inside = False
    for line in (ROOT / "docs" / page).read_text().splitlines():
        fence = _FENCE.match(line)
        if fence is not None and inside:
            found.setdefault(heading, []).append(Block(kind, "\n".join([*lines, ""])))
            inside = False
        elif fence is not None:
            kind, lines, inside = fence[1], [], True
        elif inside:
            lines.append(line)
        elif (named := _HEADING.match(line)) is not None:
            heading = named[1]
    return found


def changed_lines(diff: str) -> int:
    """How many lines a diff takes out and puts in."""
    return sum(
        line[:1] in ("+", "-") and not line.startswith(("+++ ", "--- "))
        for line in diff.splitlines()
    )
