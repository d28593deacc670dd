"""The first page, and the history."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from flask import Blueprint, render_template, request

from app.switchyard import audit
from app.switchyard.console import charts
from app.switchyard.console.frame import is_poll
from app.switchyard.console.words import ago, duration
from app.switchyard.cutover.status import LATE
from app.switchyard.health import NO_ANSWER_YET, Looks
from app.switchyard.operations import acts
from app.switchyard.operations.overview import KINDS, SILENT_CLOCK, Overview, overview
from app.switchyard.runtime import Runtime
from flags import Side

PAGE = 100
"""Acts of the history."""
LOOK_SECONDS = 0.05
"""How long the page waits for what a backend answers; else it shows what that was before."""


def add(pages: Blueprint, runtime: Runtime) -> None:
    """Add the pages to the console's."""
    backends = runtime.store.backends
    looks = Looks({name: backends[name].ping for name in backends.names()})

    @pages.get("/")
    @pages.get("", endpoint="overview")
    def first() -> str:
        seen = looks.seen(LOOK_SECONDS)
        shown = overview(runtime, {k: v for k, v in seen.items() if v != NO_ANSWER_YET})
        drawn = {
            line.status["name"]: charts.bars(line.sides[Side.SERVERLESS], line.sides[Side.RQ])
            for line in shown.jobs
        }
        return render_template(
            "switchyard/overview.html",
            shown=shown,
            strip=[*_strip(shown, runtime.store.clock())],
            drawn=drawn,
            known=set(runtime.catalogue),
            # A poll takes only what lies beside the form.
            to_legacy=0 if is_poll() else acts.would_move(runtime, None, Side.RQ),
            provider=runtime.settings.flag_provider,
        )

    @pages.get("/history")
    def history() -> str:
        before = request.args.get("before", "")
        last = int(before) if before.isdecimal() and len(before) < 16 else None
        with runtime.db.autocommit() as connection:
            rows = audit.history(connection, before=last, limit=PAGE)
        older = rows[-1]["id"] if len(rows) == PAGE else None
        known = set(runtime.catalogue)
        return render_template("switchyard/history.html", rows=rows, older=older, known=known)


def _strip(shown: Overview, now: datetime) -> Iterator[tuple[str, bool, str]]:
    """The strip of health: what, whether it is well, and how it is."""
    for backend, state in shown.sides.items():
        yield backend, state == "ok", "answers" if state == "ok" else "does not answer"
    for kind in KINDS:
        of = [one for one in shown.processes if one["kind"] == kind]
        alive = sum(one["alive"] for one in of)
        yield kind, bool(alive or not of), f"{alive} alive" if of else "none seen"
    late = shown.relay_lag > LATE.total_seconds()
    yield "relay lag", not late, duration(shown.relay_lag) if late else "none"
    if shown.clock_seen is not None:
        alive = now - shown.clock_seen <= SILENT_CLOCK
        yield "ticks", alive, f"seen {ago(shown.clock_seen, now)}"
    oldest = shown.oldest_overdue
    yield (
        "overdue",
        oldest is None,
        "nothing" if oldest is None else f"for {duration((now - oldest).total_seconds())}",
    )
