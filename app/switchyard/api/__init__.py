"""The HTTP API: what the console shows and does, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, wraps
from typing import Any, TypeVar

from flask import Blueprint, Response, current_app, g, request
from pydantic import BaseModel

from app.switchyard import audit
from app.switchyard.api import shapes
from app.switchyard.api.openapi import Operation, document
from app.switchyard.audit import By
from app.switchyard.clock import in_json
from app.switchyard.console.door import BEARER, LOCAL, Door
from app.switchyard.cutover.drain import Drain, Drained
from app.switchyard.errors import BadInput, Forbidden
from app.switchyard.http import each_once, read, read_body, register_problems
from app.switchyard.operations import acts, bulk, jobs
from app.switchyard.operations.search import search
from app.switchyard.operations.story import story
from app.switchyard.runs import operate
from app.switchyard.runs.models import Status
from app.switchyard.runtime import Runtime
from app.switchyard.text import masked
from flags import Side

NAME = "switchyard_api"
"""The blueprint's name."""
MAX_BYTES = 1024 * 1024
View = Callable[..., Any]
Declare = Callable[[View], View]
M = TypeVar("M", bound=BaseModel)


def blueprint(runtime: Runtime, door: Door) -> Blueprint:
    """The API, for callers whom `door` admits."""
    pages = Blueprint(NAME, __name__)
    register_problems(pages)
    operations: dict[str, Operation] = {}

    @pages.before_request
    def who_is_it() -> None:
        request.max_content_length = MAX_BYTES
        g.switchyard_caller = door.caller(request)
        if request.method == "POST" and not door.may_act():
            raise Forbidden("you may look at everything here, and change nothing")

    @pages.after_request
    def headers(answer: Response) -> Response:
        answer.headers["Cache-Control"] = "no-store"
        answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer

    def serves(method: str, rule: str, answer: Any, **takes: Any) -> Declare:
        one = Operation(answer, **takes)

        def declare(view: View) -> View:
            @wraps(view)
            def serve(**given: Any) -> Response:
                query = _read_query(one.query)
                given |= {} if one.query is shapes.Nothing else {"query": query}
                if one.body is not None:
                    empty = not request.get_data()
                    given["body"] = read(one.body, {}) if empty else read_body(one.body)
                answer = json.dumps(view(**given), default=in_json)
                # Ends with a newline, since a shell may make several calls.
                return Response(f"{answer}\n", one.status, content_type="application/json")

            operations[f"{NAME}.{view.__name__}"] = one
            pages.add_url_rule(rule, view.__name__, serve, methods=[method])
            return view

        return declare

    described = cache(lambda: document(current_app, operations, runtime.catalogue))

    @serves("GET", "/openapi.json", dict[str, Any])
    def openapi() -> Any:
        """This document."""
        return {**described(), "servers": [{"url": request.script_root or "/"}]}

    @serves("GET", "/jobs", shapes.Jobs)
    def list_jobs() -> Any:
        """Each job's declaration, and where it stands."""
        return jobs.every(runtime)

    @serves("GET", "/jobs/<name>", shapes.OneJob)
    def show_job(name: str) -> Any:
        """One job, with the reasons against its completion and how many runs an act would move."""
        return jobs.one(runtime, name)

    @serves("POST", "/jobs/<name>/stage", shapes.Staged, body=shapes.StageTo)
    def stage(name: str, body: shapes.StageTo) -> Any:
        """Move a job to a stage. Its open runs stay where they are."""
        how: dict[str, Any] = {"expected": body.version, "force": body.force}
        moved = acts.stage(runtime, name, body.stage, body.percent, _by(body), **how)
        at = {"stage": moved.to_stage, "percent": moved.percent, "version": moved.id}
        return {"name": moved.job, **at}

    @serves("POST", "/jobs/<name>/drain", shapes.Moved, body=shapes.DrainTo)
    def drain(name: str, body: shapes.DrainTo) -> Any:
        """Move a batch of a job's open runs, and of their children, to the other side."""
        return _batch(acts.drain, name, body, body.to, body.running)

    @serves("POST", "/jobs/<name>/rollback", shapes.Moved, body=shapes.Batch)
    def rollback(name: str, body: shapes.Batch) -> Any:
        """Flip a job to legacy, and bring a batch of its open runs back to RQ."""
        return _batch(acts.rollback, name, body)

    @serves("POST", "/rollback", shapes.Moved, body=shapes.Batch)
    def rollback_all(body: shapes.Batch) -> Any:
        """Flip every job to legacy, and bring a batch of all open runs back to RQ."""
        return _batch(acts.rollback, None, body)

    def _batch(
        act: Callable[[Drain, By, int | None], Drained],
        name: str | None,
        body: shapes.Batch,
        to: Side = Side.RQ,
        running: bool = True,
    ) -> dict[str, Any]:
        job = None if name is None else runtime.catalogue[name].name
        if body.dry_run:
            left = acts.would_move(runtime, job, to)
            return {"act": None, "moved": 0, "asked": 0, "left": left, "done": left == 0}
        drained = act(Drain(runtime, job, to, running, limit=acts.BATCH), _by(body), body.act)
        return {"act": drained.act, **drained.totals(), "done": drained.done}

    @serves("POST", "/jobs/<name>/run", shapes.Started, body=shapes.RunNow, status=202)
    def run_now(name: str, body: shapes.RunNow) -> Any:
        """Record a new run of a job and send it."""
        return asdict(acts.run_now(runtime, name, body.data, _by(body)))

    @serves("GET", "/runs", shapes.Runs, query=shapes.RunsQuery)
    def list_runs(query: shapes.RunsQuery) -> Any:
        """Runs, newest first. `before` is the `older` of the previous page."""
        return asdict(search(runtime.db, query))

    @serves("POST", "/runs/bulk", shapes.Bulked, body=shapes.Bulk)
    def bulk_runs(body: shapes.Bulk) -> Any:
        """Retry or cancel a batch of the runs that match a filter."""
        if body.dry_run:
            counted = bulk.matching(runtime, body.do, body.filter)
            nothing = {"act": None, "done": 0, "refused": 0, "older": None}
            return nothing | {"matching": counted.runs, "all": counted.all}
        done = bulk.batch(runtime, body.do, body.filter, _by(body), body.act)
        return asdict(done) | {"matching": None, "all": None}

    @serves("GET", "/runs/<run_id>", shapes.OneRun)
    def show_run(run_id: str) -> Any:
        """One run with its steps. The values of secret-sounding names are hidden."""
        run = story(runtime.db, run_id)
        return run | {name: masked(run[name]) for name in ("payload", "result", "meta")}

    @serves("POST", "/runs/<run_id>/retry", shapes.Changed, body=shapes.Act)
    def retry(run_id: str, body: shapes.Act) -> Any:
        """Retry a failed or cancelled run after its finished steps, and `others` that were
        cancelled with it."""
        others = operate.retry(runtime.store, run_id, _by(body))
        return {"id": run_id, "status": Status.PENDING, "others": others}

    @serves("POST", "/runs/<run_id>/cancel", shapes.Changed, body=shapes.Act)
    def cancel(run_id: str, body: shapes.Act) -> Any:
        """Cancel an open run, and `others` that are open below it."""
        others = operate.cancel(runtime.store, run_id, by=_by(body))
        return {"id": run_id, "status": Status.CANCELLED, "others": others}

    @serves("GET", "/history", shapes.History, query=shapes.HistoryQuery)
    def history(query: shapes.HistoryQuery) -> Any:
        """Who did what, when and why, newest first. `before` is the `older` of the page before."""
        rows = audit.history(runtime.db, **query.model_dump())
        older = rows[-1]["id"] if len(rows) == query.limit else None
        return {"history": rows, "older": older}

    return pages


def _read_query(model: type[M]) -> M:
    """The request's query. Unknown and repeated parameters are refused."""
    given = each_once(request.args)
    try:
        return read(model, given)
    except BadInput as refused:
        refused.errors = [
            {"detail": one["detail"], "parameter": one["pointer"].removeprefix("#/")}
            for one in refused.errors
        ]
        raise


def _by(body: shapes.Act) -> By:
    """Who acts: the person logged in, or else whoever a token's bearer claims to be."""
    who: str = g.switchyard_caller
    return By.person(body.by if body.by and who in (BEARER, LOCAL) else who, body.why)
