"""The first page, and the history."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from flask import Blueprint, render_template

from app.switchyard.console import charts
from app.switchyard.console.words import ago, duration
from app.switchyard.cutover import stages
from app.switchyard.cutover.status import LATE
from app.switchyard.health import NO_ANSWER_YET, Looks
from app.switchyard.operations import acts
from app.switchyard.operations.overview import SILENT_CLOCK, Overview, overview
from app.switchyard.runtime import Runtime
from flags import Side

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
            to_legacy=acts.would_move(runtime, None, Side.RQ),
            provider=runtime.settings.flag_provider,
        )

    @pages.get("/history")
    def history() -> str:
        return render_template("switchyard/history.html", rows=stages.history(runtime.db))


def _strip(shown: Overview, now: datetime) -> Iterator[tuple[str, bool, str]]:
    """The strip of health: what, whether it is well, and how it is."""
    for backend, state in shown.sides.items():
        yield backend, state == "ok", "answers" if state == "ok" else "does not answer"
    late = shown.relay_lag > LATE.total_seconds()
    yield "relay", not late, f"{duration(shown.relay_lag)} behind" if late else "up to date"
    if shown.clock_seen is not None:
        alive = now - shown.clock_seen <= SILENT_CLOCK
        yield "clock", alive, f"looked {ago(shown.clock_seen, now)}"
    oldest = shown.oldest_overdue
    yield "overdue", oldest is None, "nothing" if oldest is None else f"since {ago(oldest, now)}"
