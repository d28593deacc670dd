"""The page of a job and its moves: stages, pins, and rolling back or draining runs, a batch per
request."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for

from app.switchyard import audit
from app.switchyard.console import charts
from app.switchyard.console.frame import Page, by, is_poll, moving, number
from app.switchyard.cutover import guardrail, shadow, stages
from app.switchyard.cutover.clock import MOST, missed, read_marks
from app.switchyard.cutover.drain import Drain
from app.switchyard.cutover.status import cutover_status
from app.switchyard.errors import BackendUnavailable, BadInput, GateClosed, StageRefused
from app.switchyard.job import JobSpec
from app.switchyard.operations import acts
from app.switchyard.operations.trends import Trend, by_span, errors, trends
from app.switchyard.runtime import Runtime
from flags import MOVING, Side, Stage

DAY, HOUR, QUARTER = timedelta(days=1), timedelta(hours=1), timedelta(minutes=15)
HOURS = 24


def add(pages: Blueprint, runtime: Runtime) -> None:
    """Add the pages to the console's."""

    def job_page(name: str, refusal: str | None = None) -> str:
        spec = runtime.catalogue[name]
        [job] = cutover_status(runtime, [name])["jobs"]
        now = runtime.store.clock()
        moving = job["stage"] in MOVING
        changes = audit.history(runtime.db, job=name, act="stage", limit=20)
        # A poll takes only what is beside the forms.
        to_move = {} if is_poll() else {side: acts.would_move(runtime, name, side) for side in Side}
        return render_template(
            "switchyard/job.html",
            spec=spec,
            job=job,
            stages=list(Stage),
            asked=request.form,
            refusal=refusal,
            compared=guardrail.samples(runtime, spec, job["version"], now) if moving else None,
            fewest=guardrail.FEWEST,
            gate=stages.gate(runtime.db, name, now),
            pinned=stages.pinned_keys(runtime.db, name),
            changes=changes,
            differences=shadow.listed(runtime.db, name, shadow.WRONG, 20),
            to_move=to_move,
            ticks=_ticks(runtime, spec, now),
            errors=errors(runtime.db, name, now - DAY),
            **_day(runtime, name, now),
            # Marks the changes of stage in the day's chart.
            marks=[
                one | {"x": _x(one["at"], now)} for one in changes[::-1] if one["at"] > now - DAY
            ],
        )

    @pages.get("/jobs/<name>")
    def job(name: str) -> Page:
        return job_page(name)

    @pages.post("/jobs/<name>/stage")
    def move(name: str) -> Page:
        asked, raw = request.form, request.form.get("percent", "").strip()
        try:
            percent = _percent(raw) if asked.get("stage") == Stage.RAMP else None
            version = number("version") if asked.get("version") else None
            acts.stage(runtime, name, asked.get("stage", ""), percent, by(), expected=version)
        except ValueError:
            return job_page(name, "percent must be a number"), 422
        except (StageRefused, GateClosed) as refused:
            return job_page(name, str(refused)), refused.status
        return redirect(url_for(".job", name=name), 303)


def _percent(text: str) -> float | None:
    """The percent in a form. Raises ValueError, also for what only Python takes for a number."""
    if not text.isascii() or "_" in text:
        raise ValueError(text)
    return float(text) if text else None


def _day(runtime: Runtime, name: str, now: datetime) -> dict[str, Any]:
    """The charts of a day: both sides by quarters of an hour, and how long runs took."""
    sides = trends(runtime.db, [name], now, QUARTER, int(DAY / QUARTER))[name]
    spans = by_span(runtime.db, name, now, HOUR, HOURS)
    slowest = max((high for side in spans.values() for _, high in filter(None, side)), default=0.0)
    first = (now - DAY).replace(minute=0, second=0, microsecond=0) + HOUR
    times = [first + HOUR * number for number in range(HOURS) if (first.hour + number) % 6 == 0]
    return {
        "sides": sides,
        "day": charts.bars(sides[Side.SERVERLESS], sides[Side.RQ]),
        "latency": {side: charts.lines(span, slowest) for side, span in spans.items()},
        "slowest": slowest,
        "shares": {side: _share(trend) for side, trend in sides.items()},
        "hours": [(_x(time, now), f"{time:%H:%M}") for time in times],
    }


def _x(moment: datetime, now: datetime) -> str:
    """The position of a time in a day's chart, in percent from the left."""
    return f"{100 - 100 * ((now - moment) / DAY):.2f}"


def _share(trend: Trend) -> str:
    """The share of failed runs, with its interval."""
    if not trend.runs:
        return "–"
    failed = sum(trend.failed)
    low, high = trend.interval()
    return f"{100 * failed / trend.runs:.1f} % ({100 * low:.1f}–{100 * high:.1f} %)"


def _ticks(runtime: Runtime, spec: JobSpec, now: datetime) -> dict[str, Any]:
    """The last and the next tick of the schedule, and how many ticks no clock has proposed yet."""
    if spec.schedule is None:
        return {}
    late = missed(spec, read_marks(runtime.db), now, MOST)
    last = spec.occurrence_at(now)
    ticks = {"last": last, "next": spec.occurrence_after(now)}
    return ticks | {"missed": len(late), "and_more": len(late) == MOST}


def add_moves(pages: Blueprint, runtime: Runtime) -> None:
    """Add the moves to the console's pages."""

    @pages.post("/rollback", endpoint="every", defaults={"name": None, "kind": "rollback"})
    @pages.post("/jobs/<name>/<any(rollback, drain):kind>")
    def act(name: str | None, kind: str) -> Page:
        job = None if name is None else runtime.catalogue[name].name
        back, form = kind == "rollback", request.form
        to = Side.RQ if back else form.get("to", "")
        if to not in list(Side):
            raise BadInput(f"to must be {' or '.join(Side)}")
        running = back or "running" in form
        work = Drain(runtime, job, Side(to), running, limit=acts.BATCH)
        moved, asked, left, done, refusal = number("moved"), number("asked"), 0, False, None
        place = number("act") or None
        try:
            batch = (acts.rollback if back else acts.drain)(work, by().with_reason(), place)
        except (StageRefused, BackendUnavailable) as refused:
            refusal = refused
        else:
            moved += batch.moved.total()
            asked += batch.asked.total()
            place, left, done = batch.act, batch.left.total(), batch.done
        fields = {"act": place or "", "moved": moved, "asked": asked, "to": to}
        home = url_for(".overview") if name is None else url_for(".job", name=name)
        return moving(
            _title(name, back, work.to),
            (home, name or "the overview"),
            refusal=refusal,
            done=done,
            value=moved,
            most=moved + left,
            counts=[
                ("moved", moved, ""),
                ("asked", asked, "they are running, and move at their next step boundary"),
                ("left", left, ""),
            ],
            fields=fields | ({"running": 1} if running else {}),
        )

    @pages.post("/jobs/<name>/run")
    def run_now(name: str) -> Page:
        payload = acts.parse_payload(request.form.get("payload", "").strip() or None)
        run = acts.run_now(runtime, name, payload, by().with_reason())
        return redirect(url_for(".run", run_id=run.id), 303)

    @pages.post("/jobs/<name>/explain")
    def explain(name: str) -> Page:
        _ = runtime.catalogue[name]
        signed, now = by().with_reason(), runtime.store.clock()
        shadow.explain(runtime.db, [number("id")], None, signed, now)
        return redirect(url_for(".job", name=name), 303)

    @pages.post("/jobs/<name>/pin")
    def pin(name: str) -> Page:
        job, side = runtime.catalogue[name].name, request.form["side"] or None
        keys, signed = request.form.get("keys", "").split(), by().with_reason()
        stages.pin(runtime.db, job, keys, side, signed, runtime.store.clock())
        return redirect(url_for(".job", name=name), 303)


def _title(name: str | None, back: bool, to: Side) -> str:
    if not back:
        return f"Drain {name} to {to}"
    return "Everything to legacy" if name is None else f"Roll {name} back"
