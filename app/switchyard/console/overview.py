"""The first page, the history, and docs/runbook.md, to which troubles link."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from pathlib import Path

from flask import Blueprint, render_template
from markupsafe import Markup

from app.switchyard import audit
from app.switchyard.console import charts
from app.switchyard.console.frame import is_poll, number
from app.switchyard.health import DATABASE
from app.switchyard.looks import NO_ANSWER_YET, Looks
from app.switchyard.operations import acts
from app.switchyard.operations.overview import overview
from app.switchyard.runtime import Runtime
from flags import Side

PAGE = 100
"""How many acts a page of the history has."""
LOOK_SECONDS = 0.05
"""How long the page waits for a backend's answer. After that it shows the last known state."""


def add(pages: Blueprint, runtime: Runtime, looks: Looks) -> None:
    """Add the pages to the console's."""

    @pages.get("/")
    @pages.get("", endpoint="overview")
    def first() -> str:
        seen = looks.seen(LOOK_SECONDS)
        sides = {k: v for k, v in seen.items() if k != DATABASE and v != NO_ANSWER_YET}
        return render_template(
            "switchyard/overview.html",
            shown=overview(runtime, sides),
            bars=charts.bars,
            known=set(runtime.catalogue),
            # A poll takes only what is beside the form.
            to_legacy=0 if is_poll() else acts.would_move(runtime, None, Side.RQ),
            provider=runtime.settings.flag_provider,
        )

    @pages.get("/history")
    def history() -> str:
        rows = audit.history(runtime.db, before=number("before") or None, limit=PAGE)
        older = rows[-1]["id"] if len(rows) == PAGE else None
        known = set(runtime.catalogue)
        return render_template("switchyard/history.html", rows=rows, older=older, known=known)

    @pages.get("/runbook")
    def runbook() -> str:
        return render_template("switchyard/runbook.html", text=Markup(rendered()))


HERE = Path(__file__).parent
PLACES = (HERE / "runbook.md", HERE.parents[2] / "docs" / "runbook.md")
"""Where the runbook is in the wheel, and in the repository."""


@cache
def rendered() -> str:
    """The runbook as HTML. Each heading is a link target, and only links that work remain."""
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
