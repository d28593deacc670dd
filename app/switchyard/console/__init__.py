"""/console: where each job stands and its moves, the ledger of runs, and who did what."""

from __future__ import annotations

import logging
import re
from datetime import timedelta
from statistics import median
from typing import Any

from flask import Blueprint, g, redirect, render_template, request, url_for
from sqlalchemy import func, select
from werkzeug.wrappers import Response

from app.switchyard.console.door import Door
from app.switchyard.console.frame import framed, pretty, when
from app.switchyard.cutover import guardrail, shadow, stages
from app.switchyard.cutover.status import BACKENDS, cutover_status
from app.switchyard.errors import BadInput, GateClosed, RunNotMovable, StageRefused, SwitchyardError
from app.switchyard.runs import operate, reading
from app.switchyard.runs.models import OPEN, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime
from flags import MOVING, Stage

log = logging.getLogger(__name__)

Page = str | Response | tuple[str, int]
PAGE = 50
LATE = timedelta(seconds=60)
"""How long a run may wait for the relay before it is said to be late."""
_RUN_ID = re.compile(r"[0-9a-f]{20,32}")
_NEXT = re.compile(r"/console(?:[/?][\w./?=&%-]*)?")


def blueprint(made: Runtime, door: Door) -> Blueprint:
    """The operators' pages, for whom `door` lets in."""
    pages = Blueprint(
        "console",
        __name__,
        url_prefix="/console",
        static_folder="static",
        static_url_path="/static",
        template_folder="templates",
    )
    framed(pages, made, door)
    pages.add_app_template_filter(when)
    pages.add_app_template_filter(pretty)
    pages.add_app_template_filter(median)

    @pages.get("/login")
    def login() -> Page:
        if g.visitor.who is not None:
            return redirect(url_for("console.overview"), 303)
        return render_template("console/login.html", next=request.args.get("next", ""), name="")

    @pages.post("/login")
    def enter() -> Page:
        name, token = (request.form.get(field, "").strip() for field in ("name", "token"))
        wanted = request.form.get("next", "")
        try:
            g.visitor = door.enter(request, name, token)
        except SwitchyardError as refused:
            log.warning("console: not let in", extra={"reason": refused.title})
            page = render_template(
                "console/login.html", next=wanted, name=name, refusal=str(refused)
            )
            return page, refused.status
        log.info("console: came in", extra={"who": name})
        there = wanted if _NEXT.fullmatch(wanted) else url_for("console.overview")
        return redirect(there, 303)

    @pages.post("/logout")
    def logout() -> Page:
        g.visitor = type(g.visitor)(None, "")
        return redirect(url_for("console.login"), 303)

    @pages.get("/")
    @pages.get("")
    def overview() -> Page:
        late = select(func.count(), func.min(R.check_at)).where(
            R.check_at < made.store.clock() - LATE
        )
        with made.db.autocommit() as connection:
            count, since = connection.execute(late).one()
        calm = made.store.clock() - stages.CALM
        return render_template(
            "console/overview.html",
            jobs=cutover_status(made)["jobs"],
            known=set(made.catalogue),
            late=count,
            since=since,
            fired=[c for c in stages.history(made.db) if c.by == stages.GUARDRAIL and c.at > calm],
            provider=made.settings.flag_provider,
        )

    def job_page(name: str, refusal: str | None = None) -> str:
        spec = made.catalogue[name]
        [job] = cutover_status(made, [name])["jobs"]
        now, rows = made.store.clock(), [r for r in stages.current_stages(made.db) if r.job == name]
        moving = [row for row in rows if row.stage in MOVING]
        return render_template(
            "console/job.html",
            spec=spec,
            job=job,
            stages=list(Stage),
            asked=request.form,
            refusal=refusal,
            version=rows[0].version if rows else 0,
            compared=guardrail.samples(made, spec, moving[0], now) if moving else None,
            fewest=guardrail.FEWEST,
            obstacles=stages.obstacles(made.db, name, now),
            pinned=stages.pinned_keys(made.db, name),
            changes_of_job=stages.history(made.db, name, 20),
            differences=shadow.listed(made.db, name, shadow.WRONG, 20),
        )

    @pages.get("/jobs/<name>")
    def job(name: str) -> Page:
        return job_page(name)

    @pages.post("/jobs/<name>/stage")
    def move(name: str) -> Page:
        asked, raw = request.form, request.form.get("percent", "").strip()
        job = made.catalogue[name].name
        try:
            percent = float(raw) if raw and asked.get("stage") == Stage.RAMP else None
            stages.set_stage(
                *(made.db, job, asked.get("stage", ""), percent),
                by=g.visitor.who,
                why=asked.get("why", ""),
                now=made.store.clock(),
                expected=int(asked["version"]) if asked.get("version") else None,
            )
        except ValueError:
            return job_page(name, "percent and version must be numbers"), 422
        except (StageRefused, GateClosed) as refused:
            return job_page(name, str(refused)), refused.status
        return redirect(url_for("console.job", name=name), 303)

    @pages.get("/runs")
    def runs() -> Page:
        wanted = _filters()
        with made.db.autocommit() as connection:
            found = reading.newest(connection, PAGE + 1, **wanted)
        shown = found[:PAGE]
        older = {**wanted, "before": shown[-1]["id"]} if len(found) > PAGE else None
        return render_template(
            "console/runs.html",
            runs=shown,
            wanted=wanted,
            older=older,
            jobs=list(made.catalogue),
            statuses=list(Status),
            backends=BACKENDS,
        )

    def run_page(run_id: str, refusal: str | None = None) -> str:
        with made.db.autocommit() as connection:
            found = reading.one(connection, _run_id(run_id))
        return render_template(
            "console/run.html",
            run=found,
            timeline=_timeline(found),
            refusal=refusal,
            can_retry=found["status"] in (Status.FAILED, Status.CANCELLED),
            can_cancel=found["status"] in OPEN,
            kept=made.settings.retention_days if found["status"] == Status.SUCCEEDED else 0,
        )

    @pages.get("/runs/<run_id>")
    def run(run_id: str) -> Page:
        return run_page(run_id)

    @pages.post("/runs/<run_id>/<any(retry, cancel):deed>")
    def deed(run_id: str, deed: str) -> Page:
        do = operate.retry if deed == "retry" else operate.cancel
        try:
            do(made.store, _run_id(run_id))
        except RunNotMovable as refused:
            return run_page(run_id, str(refused)), refused.status
        log.warning("console: run moved", extra={"run": run_id, "deed": deed, "who": g.visitor.who})
        return redirect(url_for("console.run", run_id=run_id), 303)

    @pages.get("/history")
    def history() -> Page:
        return render_template("console/history.html", rows=stages.history(made.db))

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
    told = [
        (run["created_at"], f"recorded for {run['backend']}: {run['reason']}", ""),
        (run["started_at"], "claimed for the first time", ""),
        (run["ended_at"], run["status"], run["status"]),
    ]
    for step in run["steps"]:
        tries = f", {step['attempts']} attempts" if step["attempts"] > 1 else ""
        said = f"{step['name']}: {step['status']} on {step['backend']}{tries}"
        told.append((step["updated_at"], said, step["status"]))
    # In this order where two fell in one millisecond: the end comes last.
    ended = told.pop(2)
    return [*sorted((t for t in told if t[0]), key=lambda t: t[0]), *([ended] if ended[0] else [])]
