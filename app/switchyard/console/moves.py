"""Moves of runs, rolling back and draining, a batch a request; and what else is done to a job."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, g, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from app.switchyard.cutover import shadow, stages
from app.switchyard.cutover.drain import Drain
from app.switchyard.errors import BackendUnavailable, BadInput, StageRefused
from app.switchyard.operations import acts
from app.switchyard.runtime import Runtime
from flags import Side

Page = str | Response | tuple[str, int]


def by() -> acts.By:
    """Who sent this form, and why."""
    return acts.By(g.switchyard_visitor, request.form.get("why", "")).with_reason()


def add(pages: Blueprint, runtime: Runtime) -> None:
    """Add the moves to the console's pages."""

    @pages.post("/rollback", endpoint="every", defaults={"name": None, "kind": "rollback"})
    @pages.post("/jobs/<name>/<any(rollback, drain):kind>")
    def act(name: str | None, kind: str) -> Page:
        jobs = None if name is None else [runtime.catalogue[name].name]
        form, so_far = request.form, {what: _number(what) for what in ("act", "moved", "asked")}
        back = kind == "rollback"
        to = Side.RQ if back or form.get("to") == Side.RQ else Side.SERVERLESS
        running = back or "running" in form
        work = Drain(runtime, jobs, to, running, limit=acts.BATCH)
        do = acts.rollback if back else acts.drain
        try:
            moving = do(work, by(), so_far["act"] or None)
        except (StageRefused, BackendUnavailable) as refused:
            shown = {"refusal": str(refused), "status": refused.status}
            return _moving(kind, name, to, running, so_far, shown), refused.status
        drained = moving.drained
        so_far["act"] = moving.act
        so_far["moved"] += drained.moved.total()
        so_far["asked"] += drained.asked.total()
        shown = {"left": drained.left.total(), "done": moving.done}
        return _moving(kind, name, to, running, so_far, shown)

    @pages.post("/jobs/<name>/run")
    def run_now(name: str) -> Page:
        text = request.form.get("payload", "").strip()
        try:
            payload = json.loads(text) if text else None
        except ValueError:
            raise BadInput("the payload is not JSON") from None
        if payload is not None and not isinstance(payload, dict):
            raise BadInput("the payload must be a JSON object")
        run = acts.run_now(runtime, name, payload, by())
        return redirect(url_for(".run", run_id=run.id), 303)

    @pages.post("/jobs/<name>/explain")
    def explain(name: str) -> Page:
        one, signed = _number("id"), by()
        how: dict[str, Any] = {"by": signed.who, "why": signed.why, "now": runtime.store.clock()}
        shadow.explain(runtime.db, [one], None if one else runtime.catalogue[name].name, **how)
        return redirect(url_for(".job", name=name), 303)

    @pages.post("/jobs/<name>/pin")
    def pin(name: str) -> Page:
        job, side, signed = runtime.catalogue[name].name, request.form.get("side"), by()
        keys = request.form.get("keys", "").split()
        how: dict[str, Any] = {"by": signed.who, "why": signed.why, "now": runtime.store.clock()}
        stages.pin(runtime.db, job, keys, side or None, **how)
        return redirect(url_for(".job", name=name), 303)


def _moving(
    kind: str,
    name: str | None,
    to: Side,
    running: bool,
    so_far: dict[str, int],
    shown: dict[str, Any],
) -> str:
    return render_template(
        "switchyard/moving.html",
        kind=kind,
        name=name,
        to=to,
        running=running,
        why=request.form.get("why", ""),
        **so_far,
        **{"left": 0, "done": False, "refusal": None, **shown},
    )


def _number(field: str) -> int:
    text = request.form.get(field) or "0"
    if not text.isdecimal() or len(text) > 15:
        raise BadInput(f"{field} must be a number")
    return int(text)
