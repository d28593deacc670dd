"""Many runs at once: retried or cancelled by filter, a batch a request, and exported."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from flask import Blueprint, render_template, request, url_for
from werkzeug.wrappers import Response

from app.switchyard.clock import in_json, iso, moment
from app.switchyard.console import searching
from app.switchyard.console.moves import by, moving, number
from app.switchyard.operations import bulk, search
from app.switchyard.operations.search import RunFilter
from app.switchyard.runtime import Runtime

EXPORTED = 100_000
_KINDS = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def add(pages: Blueprint, runtime: Runtime) -> None:
    """Add the pages to the console's."""

    def wanted(at: int = 0) -> RunFilter:
        return searching.read(request.args, (moment(at) if at else None) or runtime.store.clock())

    @pages.get("/bulk/<any(retry, cancel):deed>")
    def ask_bulk(deed: str) -> str:
        # What was created in the last 2 h is so at this moment, however long the batches take.
        at = int(runtime.store.clock().timestamp())
        counted = bulk.matching(runtime, bulk.Deed(deed), wanted(at))
        shown = {"deed": deed, "counted": counted, "asked": searching.address(request.args)}
        return render_template("switchyard/bulk.html", at=at, **shown)

    @pages.post("/bulk/<any(retry, cancel):deed>", endpoint="bulk")
    def go_on(deed: str) -> str:
        at = number("at") or int(runtime.store.clock().timestamp())
        asked = wanted(at).model_copy(update={"before": request.form.get("before") or None})
        batch = bulk.batch(runtime, bulk.Deed(deed), asked, by(), number("act") or None)
        done, refused = number("done") + batch.done, number("refused") + batch.refused
        most = max(number("most"), done + refused)
        past = "retried" if deed == "retry" else "cancelled"
        asked_for: dict[str, Any] = dict(searching.address(request.args))
        return moving(
            title=f"{deed.capitalize()} many runs",
            done=batch.older is None,
            value=most if batch.older is None else done + refused,
            most=most,
            counts=[
                (past, done, "with what was below them"),
                ("refused", refused, "they had moved by themselves"),
            ],
            fields={
                "act": batch.act,
                "at": at,
                "done": done,
                "refused": refused,
                "most": most,
                "before": batch.older or "",
                "why": request.form.get("why", ""),
            },
            back=(url_for(".runs", **asked_for), "the runs"),
        )

    @pages.get("/runs.<any(csv, json):kind>")
    def export(kind: str) -> Response:
        runs = search.every(runtime.db, wanted().model_copy(update={"limit": EXPORTED}))
        lines = _csv(runs) if kind == "csv" else _json(runs)
        answer = Response(lines, content_type=_KINDS[kind])
        answer.headers["Content-Disposition"] = f'attachment; filename="runs.{kind}"'
        return answer


def _csv(runs: Iterator[dict[str, object]]) -> Iterator[str]:
    names = [column.key for column in search.COLUMNS]
    yield _line(names)
    for run in runs:
        yield _line([_cell(run[name]) for name in names])


def _line(cells: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        value = iso(value)
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    # A table's program would take it for a formula.
    return f"'{text}" if text.startswith(_FORMULA) else text


def _json(runs: Iterator[dict[str, object]]) -> Iterator[str]:
    yield "["
    for place, run in enumerate(runs):
        yield f"{',' if place else ''}\n{json.dumps(run, default=in_json)}"
    yield "\n]\n"
