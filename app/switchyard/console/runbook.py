"""The runbook, so that it is at hand where trouble is shown: docs/runbook.md as a page."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from pathlib import Path

from flask import Blueprint, render_template
from markupsafe import Markup

HERE = Path(__file__).parent
PLACES = (HERE / "runbook.md", HERE.parents[2] / "docs" / "runbook.md")
"""In the wheel, and in the repository."""


def add(pages: Blueprint) -> None:
    """Add the page to the console's."""

    @pages.get("/runbook")
    def runbook() -> str:
        return render_template("switchyard/runbook.html", text=Markup(rendered()))


@cache
def rendered() -> str:
    """As HTML: each heading can be linked to, and only what leads somewhere is a link."""
    from markdown_it import MarkdownIt  # for this page alone

    text = next(place for place in PLACES if place.exists()).read_text()
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    for token, following in pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", re.sub(r"[^a-z0-9]+", "-", following.content.lower()).strip("-"))
        for inner in token.children or ():
            if inner.type == "link_open" and not re.match("#|https://", str(inner.attrs["href"])):
                del inner.attrs["href"]
    return str(parser.renderer.render(tokens, parser.options, {}))
