"""/console: where each job stands and its moves, the ledger of runs, and who did what."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from flask import Blueprint, g, redirect, render_template, request, url_for
from sqlalchemy import func, select
from werkzeug.wrappers import Response

from app.switchyard.console.door import Door
from app.switchyard.console.frame import LOGIN, NAME, framed
from app.switchyard.cutover import guardrail, shadow, stages
from app.switchyard.cutover.status import BACKENDS, cutover_status
from app.switchyard.errors import BadInput, GateClosed, RunNotMovable, StageRefused, SwitchyardError
from app.switchyard.operations import acts
from app.switchyard.runs import reading
from app.switchyard.runs.models import OPEN, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime
from flags import MOVING, Stage

Page = str | Response | tuple[str, int]
PAGE = 50
LATE = timedelta(seconds=60)
"""How long a run may wait for the relay before it is said to be late."""
_RUN_ID = re.compile(r"[0-9a-f]{20,32}")
_NEXT = re.compile(r"(?:[/?][\w./?=&%-]*)?")


def blueprint(runtime: Runtime, door: Door) -> Blueprint:
    """The operators' pages, for whom `door` lets in."""
    pages = Blueprint(
        NAME,
        __name__,
        static_folder="static",
        static_url_path="/static",
        template_folder="templates",
    )
    framed(pages, runtime, door)

    @pages.get("/login")
    def login() -> Page:
        if g.switchyard_visitor is not None:
            return redirect(url_for(".overview"), 303)
        return render_template("switchyard/login.html", next=request.args.get("next", ""), name="")

    @pages.post("/login")
    def enter() -> Page:
        name, token = (request.form.get(field, "").strip() for field in ("name", "token"))
        wanted = request.form.get("next", "")
        try:
            door.enter(request, name, token)
        except SwitchyardError as refused:
            page = render_template(
                "switchyard/login.html", next=wanted, name=name, refusal=str(refused)
            )
            return page, refused.status
        home = url_for(".overview")
        inside = wanted.startswith(home) and _NEXT.fullmatch(wanted.removeprefix(home))
        return redirect(wanted if inside else home, 303)

    @pages.post("/logout")
    def logout() -> Page:
        door.leave()
        return redirect(url_for(LOGIN), 303)

    @pages.get("/")
    @pages.get("")
    def overview() -> Page:
        late = select(func.count(), func.min(R.check_at)).where(
            R.check_at < runtime.store.clock() - LATE
        )
        with runtime.db.autocommit() as connection:
            count, since = connection.execute(late).one()
        calm = runtime.store.clock() - stages.CALM
        changes = stages.history(runtime.db)
        return render_template(
            "switchyard/overview.html",
            jobs=cutover_status(runtime)["jobs"],
            known=set(runtime.catalogue),
            late=count,
            since=since,
            fired=[c for c in changes if c.by == stages.GUARDRAIL and c.at > calm],
            provider=runtime.settings.flag_provider,
        )

    def job_page(name: str, refusal: str | None = None) -> str:
        spec = runtime.catalogue[name]
        [job] = cutover_status(runtime, [name])["jobs"]
        now = runtime.store.clock()
        rows = [r for r in stages.current_stages(runtime.db) if r.job == name]
        moving = [row for row in rows if row.stage in MOVING]
        return render_template(
            "switchyard/job.html",
            spec=spec,
            job=job,
            stages=list(Stage),
            asked=request.form,
            refusal=refusal,
            version=rows[0].version if rows else 0,
            compared=guardrail.samples(runtime, spec, moving[0], now) if moving else None,
            fewest=guardrail.FEWEST,
            obstacles=stages.obstacles(runtime.db, name, now),
            pinned=stages.pinned_keys(runtime.db, name),
            changes_of_job=stages.history(runtime.db, name, 20),
            differences=shadow.listed(runtime.db, name, shadow.WRONG, 20),
        )

    @pages.get("/jobs/<name>")
    def job(name: str) -> Page:
        return job_page(name)

    @pages.post("/jobs/<name>/stage")
    def move(name: str) -> Page:
        asked, raw = request.form, request.form.get("percent", "").strip()
        by = acts.By(g.switchyard_visitor, asked.get("why", ""))
        try:
            percent = float(raw) if raw and asked.get("stage") == Stage.RAMP else None
            version = int(asked["version"]) if asked.get("version") else None
            acts.stage(runtime, name, asked.get("stage", ""), percent, by, expected=version)
        except ValueError:
            return job_page(name, "percent and version must be numbers"), 422
        except (StageRefused, GateClosed) as refused:
            return job_page(name, str(refused)), refused.status
        return redirect(url_for(".job", name=name), 303)

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

    @pages.get("/history")
    def history() -> Page:
        return render_template("switchyard/history.html", rows=stages.history(runtime.db))

    return pages


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
