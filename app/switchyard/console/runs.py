"""The ledger of runs, and the page of one."""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, g, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from app.switchyard.cutover.status import BACKENDS
from app.switchyard.errors import BadInput, RunNotMovable
from app.switchyard.operations import acts
from app.switchyard.runs import reading
from app.switchyard.runs.models import OPEN, Status
from app.switchyard.runtime import Runtime

Page = str | Response | tuple[str, int]
PAGE = 50
_RUN_ID = re.compile(r"[0-9a-f]{20,32}")


def add(pages: Blueprint, runtime: Runtime) -> None:
    """Add the pages to the console's."""

    @pages.get("/runs")
    def runs() -> Page:
        wanted = _filters()
        with runtime.db.autocommit() as connection:
            found = reading.newest(connection, PAGE + 1, **wanted)
        shown = found[:PAGE]
        older = {**wanted, "before": shown[-1]["id"]} if len(found) > PAGE else None
        return render_template(
            "switchyard/runs.html",
            runs=shown,
            wanted=wanted,
            older=older,
            jobs=list(runtime.catalogue),
            statuses=list(Status),
            backends=BACKENDS,
        )

    def run_page(run_id: str, refusal: str | None = None) -> str:
        with runtime.db.autocommit() as connection:
            found = reading.one(connection, _run_id(run_id))
        return render_template(
            "switchyard/run.html",
            run=found,
            timeline=_timeline(found),
            refusal=refusal,
            can_retry=found["status"] in (Status.FAILED, Status.CANCELLED),
            can_cancel=found["status"] in OPEN,
            kept=runtime.settings.retention_days if found["status"] == Status.SUCCEEDED else 0,
        )

    @pages.get("/runs/<run_id>")
    def run(run_id: str) -> Page:
        return run_page(run_id)

    @pages.post("/runs/<run_id>/<any(retry, cancel):deed>")
    def deed(run_id: str, deed: str) -> Page:
        do = acts.retry if deed == "retry" else acts.cancel
        try:
            do(runtime, _run_id(run_id), acts.By(g.switchyard_visitor, request.form.get("why", "")))
        except RunNotMovable as refused:
            return run_page(run_id, str(refused)), refused.status
        return redirect(url_for(".run", run_id=run_id), 303)


def _filters() -> dict[str, str | None]:
    """What the address asks the ledger for. Raises BadInput."""
    names = ("job", "status", "backend", "parent", "before")
    wanted = {name: request.args.get(name) or None for name in names}
    for name, value in wanted.items():
        if value is not None and not (value.isprintable() and len(value) <= 100):
            raise BadInput(f"{name}: must be at most 100 printable characters")
    return wanted


def _run_id(text: str) -> str:
    if not _RUN_ID.fullmatch(text):
        raise BadInput("a run's id is hexadecimal")
    return text


def _timeline(run: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What happened to the run, oldest first: when, what, and how it is to be shown."""
    events = [
        (run["created_at"], f"recorded for {run['backend']}: {run['reason']}", ""),
        (run["started_at"], "claimed for the first time", ""),
        (run["ended_at"], run["status"], run["status"]),
    ]
    for step in run["steps"]:
        tries = f", {step['attempts']} attempts" if step["attempts"] > 1 else ""
        said = f"{step['name']}: {step['status']} on {step['backend']}{tries}"
        events.append((step["updated_at"], said, step["status"]))
    # In this order where two fell in one millisecond: the end comes last.
    ended = events.pop(2)
    known = sorted((event for event in events if event[0]), key=lambda event: event[0])
    return [*known, *([ended] if ended[0] else [])]
