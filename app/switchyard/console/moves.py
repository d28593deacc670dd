"""Moves of runs, rolling back and draining, a batch a request; and what else is done to a job."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, g, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from app.switchyard.audit import By
from app.switchyard.cutover import shadow, stages
from app.switchyard.cutover.drain import Drain
from app.switchyard.errors import BackendUnavailable, BadInput, StageRefused
from app.switchyard.operations import acts
from app.switchyard.runtime import Runtime
from flags import Side

Page = str | Response | tuple[str, int]


def by() -> By:
    """Who sent this form, and why."""
    return By(g.switchyard_visitor, request.form.get("why", ""))


def add(pages: Blueprint, runtime: Runtime) -> None:
    """Add the moves to the console's pages."""

    @pages.post("/rollback", endpoint="every", defaults={"name": None, "kind": "rollback"})
    @pages.post("/jobs/<name>/<any(rollback, drain):kind>")
    def act(name: str | None, kind: str) -> Page:
        job = None if name is None else runtime.catalogue[name].name
        back, form = kind == "rollback", request.form
        to = Side.RQ if back or form.get("to") == Side.RQ else Side.SERVERLESS
        running = back or "running" in form
        work = Drain(runtime, job, to, running, limit=acts.BATCH)
        moved, asked, left, done, refusal = number("moved"), number("asked"), 0, False, None
        place = number("act") or None
        try:
            batch = (acts.rollback if back else acts.drain)(work, by().with_reason(), place)
        except (StageRefused, BackendUnavailable) as refused:
            refusal = refused
        else:
            moved += batch.drained.moved.total()
            asked += batch.drained.asked.total()
            place, left, done = batch.act, batch.drained.left.total(), batch.done
        fields = {"act": place or "", "moved": moved, "asked": asked, "to": to}
        fields |= {"why": form.get("why", "")} | ({"running": 1} if running else {})
        home = url_for(".overview") if name is None else url_for(".job", name=name)
        page = moving(
            title=_title(name, back, to),
            done=done,
            refusal=refusal and str(refusal),
            value=moved,
            most=moved + left,
            counts=[
                ("moved", moved, ""),
                ("asked", asked, "they run, and move at their next step boundary"),
                ("left", left, ""),
            ],
            fields=fields,
            back=(home, name or "the overview"),
        )
        return page if refusal is None else (page, refusal.status)

    @pages.post("/jobs/<name>/run")
    def run_now(name: str) -> Page:
        payload = acts.parse_payload(request.form.get("payload", "").strip() or None)
        run = acts.run_now(runtime, name, payload, by().with_reason())
        return redirect(url_for(".run", run_id=run.id), 303)

    @pages.post("/jobs/<name>/explain")
    def explain(name: str) -> Page:
        one = number("id")
        job = None if one else runtime.catalogue[name].name
        shadow.explain(runtime.db, [one], job, by().with_reason(), runtime.store.clock())
        return redirect(url_for(".job", name=name), 303)

    @pages.post("/jobs/<name>/pin")
    def pin(name: str) -> Page:
        job, side = runtime.catalogue[name].name, request.form.get("side") or None
        keys, signed = request.form.get("keys", "").split(), by().with_reason()
        stages.pin(runtime.db, job, keys, side, signed, runtime.store.clock())
        return redirect(url_for(".job", name=name), 303)


def _title(name: str | None, back: bool, to: Side) -> str:
    if not back:
        return f"Drain {name} to {to}"
    return "Everything to legacy" if name is None else f"Roll {name} back"


def moving(**shown: Any) -> str:
    """How far an act is that goes on a batch a request: by htmx by itself, else by its button."""
    return render_template("switchyard/moving.html", **{"refusal": None, **shown})


def number(field: str) -> int:
    """A count that the form brings along. Raises BadInput."""
    text = request.form.get(field) or "0"
    if not text.isdecimal() or len(text) > 15:
        raise BadInput(f"{field} must be a number")
    return int(text)
