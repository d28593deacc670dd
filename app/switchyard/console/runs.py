"""The ledger of runs, and the page of one."""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from app.switchyard.config import Settings
from app.switchyard.console import searching
from app.switchyard.console.moves import by
from app.switchyard.console.waterfall import waterfall
from app.switchyard.cutover.status import BACKENDS
from app.switchyard.errors import BadInput, RunNotMovable
from app.switchyard.operations.bulk import FITTING
from app.switchyard.operations.search import search
from app.switchyard.operations.story import story
from app.switchyard.runs import operate
from app.switchyard.runs.models import OPEN, Status
from app.switchyard.runtime import Runtime
from flags import LEGACY_BACKEND, Reason, Side

Page = str | Response | tuple[str, int]
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
_RUN_ID = re.compile(r"[0-9a-f]{20,32}")


def add(pages: Blueprint, runtime: Runtime) -> None:
    """Add the pages to the console's."""

    @pages.get("/runs")
    def runs() -> Page:
        shown: dict[str, Any] = {"page": None, "refusal": None, "deed": None}
        try:
            wanted = searching.read(request.args, runtime.store.clock())
            shown["page"] = search(runtime.db, wanted)
            fitting = [deed for deed, of in FITTING.items() if wanted.status in of]
            shown["deed"] = fitting[0] if fitting else None
        except BadInput as refused:
            shown["refusal"] = str(refused)
        page = render_template(
            "switchyard/runs.html",
            **shown,
            asked=searching.address(request.args),
            before=request.args.get("before"),
            jobs=list(runtime.catalogue),
            statuses=list(Status),
            backends=(*BACKENDS, Side.SERVERLESS),
        )
        return page if shown["refusal"] is None else (page, BadInput.status)

    def run_page(run_id: str, refusal: str | None = None) -> str:
        with runtime.db.autocommit() as connection:
            run = story(connection, _run_id(run_id))
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
            do(runtime.store, _run_id(run_id), by=by())
        except RunNotMovable as refused:
            return run_page(run_id, str(refused)), refused.status
        return redirect(url_for(".run", run_id=run_id), 303)


def _run_id(text: str) -> str:
    if not _RUN_ID.fullmatch(text):
        raise BadInput("a run's id is hexadecimal")
    return text


def _there(run: dict[str, Any], settings: Settings) -> dict[str, str]:
    """What its backend calls it, and where that is to be seen."""
    name, holder = run["sent_ref"] or "", run["holder"] or ""
    if run["backend"] == LEGACY_BACKEND:
        return {"name": f"job {run['id']}-{run['epoch']}"}
    if run["backend"] != "inngest" or not holder.startswith("inngest-"):
        return {"name": name}
    name = holder.removeprefix("inngest-")
    base = settings.inngest_base_url
    url = f"{INNGEST}/{name}" if base is None else f"{str(base).rstrip('/')}/run?runID={name}"
    return {"name": name, "url": url}
