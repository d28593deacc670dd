"""The runs that a search finds, as a file. They are sent as they are read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import datetime

from werkzeug.wrappers import Response

from app.switchyard.clock import in_json, iso
from app.switchyard.db import Database
from app.switchyard.operations.search import COLUMNS, RunFilter, every

MOST = 100_000
_KINDS = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def exported(db: Database, wanted: RunFilter, kind: str) -> Response:
    """The newest MOST runs of a search as a `kind` of file, csv or json."""
    runs = every(db, wanted.model_copy(update={"limit": MOST}))
    answer = Response(_csv(runs) if kind == "csv" else _json(runs), content_type=_KINDS[kind])
    answer.headers["Content-Disposition"] = f'attachment; filename="runs.{kind}"'
    return answer


def _csv(runs: Iterator[dict[str, object]]) -> Iterator[str]:
    names = [column.key for column in COLUMNS]
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
    # A spreadsheet would read it as a formula.
    return f"'{text}" if text.startswith(_FORMULA) else text


def _json(runs: Iterator[dict[str, object]]) -> Iterator[str]:
    yield "["
    for place, run in enumerate(runs):
        yield f"{',' if place else ''}\n{json.dumps(run, default=in_json)}"
    yield "\n]\n"
