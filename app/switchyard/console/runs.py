"""The ledger of runs: the page of a run, the search and its words, and retrying or cancelling many
runs, a batch per request."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from app.switchyard import http
from app.switchyard.clock import moment
from app.switchyard.config import Settings
from app.switchyard.console.export import exported
from app.switchyard.console.frame import Page, by, moving, number
from app.switchyard.console.waterfall import waterfall
from app.switchyard.cutover.status import BACKENDS
from app.switchyard.errors import BadInput, RunNotMovable
from app.switchyard.operations import bulk
from app.switchyard.operations.search import RunFilter, filter_of, search
from app.switchyard.operations.story import story
from app.switchyard.runs import operate
from app.switchyard.runs.models import OPEN, Status
from app.switchyard.runtime import Runtime
from flags import LEGACY_BACKEND, Reason, Side

INNGEST = "https://app.inngest.com/env/production/runs"
_REASONS = {
    Reason.DISABLED: "USE_INNGEST was not true",
    Reason.STATIC: "the job's stage alone decided",
    Reason.SPLIT: "its key's place in the ramp decided",
    Reason.TARGETING_MATCH: "its key is pinned to that side",
    Reason.DEFAULT: "no stage was ever set for the job",
    Reason.STALE: "the stages could not be read: the last known one decided",
    Reason.ERROR: "the stages could not be read, and none was known",
    Reason.PARENT: "it follows its parent",
    Reason.SHADOW: "it compares what another run did",
    Reason.HANDED_OVER: "a drain or a rollback moved it there",
    Reason.CANARY: "`cutover verify` named that side",
}
FIELDS = frozenset(RunFilter.model_fields) - {"limit"}
_ID = re.compile(r"[0-9a-f]{12,32}")


def add(pages: Blueprint, runtime: Runtime) -> None:
    """Add the pages to the console's."""

    @pages.get("/runs")
    def runs() -> Page:
        shown: dict[str, Any] = {"page": None, "refusal": None, "deed": None}
        try:
            wanted = read(http.each_once(request.args), runtime.store.clock())
            shown["page"] = search(runtime.db, wanted)
            fitting = [deed for deed, of in bulk.FITTING.items() if wanted.status in of]
            shown["deed"] = fitting[0] if fitting else None
        except BadInput as refused:
            shown["refusal"] = str(refused)
        page = render_template(
            "switchyard/runs.html",
            **shown,
            asked=address(request.args),
            before=request.args.get("before"),
            jobs=list(runtime.catalogue),
            statuses=list(Status),
            backends=(*BACKENDS, Side.SERVERLESS),
        )
        return page if shown["refusal"] is None else (page, BadInput.status)

    def run_page(run_id: str, refusal: str | None = None) -> str:
        run = story(runtime.db, run_id)
        if (progress := run["progress"]) is not None:
            progress["at"] = datetime.fromisoformat(progress["at"])
        return render_template(
            "switchyard/run.html",
            run=run,
            drawn=waterfall(run, runtime.store.clock()),
            reason=_REASONS.get(run["reason"], "its decision is of a newer version"),
            there=_there(run, runtime.settings),
            refusal=refusal,
            can_retry=run["status"] in (Status.FAILED, Status.CANCELLED),
            can_cancel=run["status"] in OPEN,
            kept=runtime.settings.retention_days if run["status"] == Status.SUCCEEDED else 0,
        )

    @pages.get("/runs/<run_id>")
    def run(run_id: str) -> Page:
        return run_page(run_id)

    @pages.post("/runs/<run_id>/<any(retry, cancel):deed>")
    def deed(run_id: str, deed: str) -> Page:
        do = operate.retry if deed == "retry" else operate.cancel
        try:
            do(runtime.store, run_id, by=by())
        except RunNotMovable as refused:
            return run_page(run_id, str(refused)), refused.status
        return redirect(url_for(".run", run_id=run_id), 303)


def add_many(pages: Blueprint, runtime: Runtime) -> None:
    """Add the acts on many runs to the console's pages."""

    def wanted(at: int = 0, **given: str) -> RunFilter:
        now = moment(at) if at else None
        asked = http.each_once(request.args)
        return read({**asked, **given}, now or runtime.store.clock())

    @pages.get("/bulk/<any(retry, cancel):deed>")
    def ask_bulk(deed: str) -> str:
        # "The last 2 h" counts from this moment, however long the batches take.
        at = int(runtime.store.clock().timestamp())
        counted = bulk.matching(runtime, bulk.Deed(deed), wanted(at))
        shown = {"deed": deed, "counted": counted, "asked": address(request.args)}
        return render_template("switchyard/bulk.html", at=at, **shown)

    @pages.post("/bulk/<any(retry, cancel):deed>", endpoint="bulk")
    def go_on(deed: str) -> Page:
        at = number("at") or int(runtime.store.clock().timestamp())
        asked = wanted(at, before=request.form.get("before", ""))
        batch = bulk.batch(runtime, bulk.Deed(deed), asked, by(), number("act") or None)
        done, refused = number("done") + batch.done, number("refused") + batch.refused
        most = max(number("most"), done + refused)
        past = "retried" if deed == "retry" else "cancelled"
        return moving(
            f"{deed.capitalize()} many runs",
            (url_for(".runs", **address(request.args)), "the runs"),
            done=batch.older is None,
            value=most if batch.older is None else done + refused,
            most=most,
            counts=[
                (past, done, "with those below them"),
                ("refused", refused, "they had changed meanwhile"),
            ],
            fields={
                "act": batch.act,
                "at": at,
                "done": done,
                "refused": refused,
                "most": most,
                "before": batch.older or "",
            },
        )

    @pages.get("/runs.<any(csv, json):kind>")
    def export(kind: str) -> Response:
        return exported(runtime.db, wanted(), kind)


def _there(run: dict[str, Any], settings: Settings) -> dict[str, str]:
    """The backend's own reference for the run, and a link to it."""
    name, holder = run["sent_ref"] or "", run["holder"] or ""
    if run["backend"] == LEGACY_BACKEND:
        return {"name": f"job {run['id']}-{run['epoch']}"}
    if run["backend"] != "inngest" or not holder.startswith("inngest-"):
        return {"name": name}
    name = holder.removeprefix("inngest-")
    base = settings.inngest_base_url
    url = f"{INNGEST}/{name}" if base is None else f"{str(base).rstrip('/')}/run?runID={name}"
    return {"name": name, "url": url}


def read(given: Mapping[str, str], now: datetime) -> RunFilter:
    """The filter of a form: its fields, and in `q` words such as `job:x`, `payload.creatorId:x`,
    `since:2h`, a run's id or a key. Raises BadInput."""
    for name in given.keys() - FIELDS - {"q"}:
        raise BadInput(f"{name}: no run has this field")
    asked = {name: given[name].strip() for name in FIELDS if given.get(name, "").strip()}
    asked |= _words(given.get("q", ""))
    for name, text in asked.items():
        if not (text.isprintable() and len(text) <= 300):
            raise BadInput(f"{name}: must be at most 300 printable characters")
    return filter_of(asked, now)


def _words(text: str) -> dict[str, str]:
    asked: dict[str, str] = {}
    try:
        words = shlex.split(text)
    except ValueError:
        raise BadInput('search: a " is not closed') from None
    for word in words:
        name, colon, value = word.partition(":")
        name = {"side": "backend"}.get(name, name)
        if name.startswith("payload.") and colon:
            asked["payload"] = word
        elif name in FIELDS and colon:
            asked[name] = value
        else:
            asked["id" if _ID.fullmatch(word) else "key"] = word
    return asked


def address(given: Mapping[str, str]) -> dict[str, Any]:
    """The parts of a search that make its address, without its page."""
    kept = {name: given.get(name, "") for name in (*sorted(FIELDS - {"before"}), "q")}
    return {name: text for name, text in kept.items() if text}
