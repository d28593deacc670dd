"""The ledger of runs as it is shown to people and scripts."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, Select, literal_column, select

from app.switchyard.clock import iso
from app.switchyard.errors import UnknownRun
from app.switchyard.runs import children
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status
from app.switchyard.runs.models import StepRow as S

COLUMNS = (
    *(R.id, R.job, R.key, R.backend, R.reason, R.stage, R.status, R.epoch, R.attempt),
    R.parent_id.label("parent"),
    *(R.created_at, R.started_at, R.ended_at, R.error, R.progress),
)
_TIMES = ("created_at", "started_at", "ended_at")


def newest(
    connection: Connection,
    limit: int,
    *,
    job: str | None = None,
    status: str | None = None,
    backend: str | None = None,
    parent: str | None = None,
    before: str | None = None,
) -> list[dict[str, Any]]:
    """The newest runs first, as `runs list --json` has them; `before` is the last id of a page."""
    # An id begins with its time, and is indexed.
    chosen: Select[*tuple[Any, ...]] = select(*COLUMNS).order_by(R.id.desc()).limit(limit)
    for column, wanted in ((R.job, job), (R.backend, backend), (R.parent_id, parent)):
        if wanted is not None:
            chosen = chosen.where(column == wanted)
    if status == Status.FAILED:
        # Spelled out, so that SQLite may use the partial index of failed runs.
        chosen = chosen.where(R.status == literal_column("'failed'"))
    elif status is not None:
        chosen = chosen.where(R.status == status)
    if before is not None:
        chosen = chosen.where(R.id < before)
    return [as_json(row._asdict()) for row in connection.execute(chosen)]


def one(connection: Connection, run_id: str) -> dict[str, Any]:
    """A run with its payload, result, children and steps. Raises UnknownRun."""
    columns = (*COLUMNS, R.due_at, R.payload, R.result, R.meta)
    row = connection.execute(select(*columns).where(R.id == run_id)).one_or_none()
    if row is None:
        raise UnknownRun(f"no run {run_id!r}")
    kept = (S.name, S.status, S.attempts, S.backend, S.error, S.updated_at)
    steps = connection.execute(
        select(*kept).where(S.run_id == run_id).order_by(S.updated_at, S.name)
    )
    return {
        **as_json(row._asdict()),
        "due_at": iso(row.due_at),
        "payload": json.loads(row.payload),
        "result": _json(row.result),
        "meta": _json(row.meta),
        "children": children.by_status(connection, run_id),
        "steps": [step._asdict() | {"updated_at": iso(step.updated_at)} for step in steps],
    }


def as_json(row: dict[str, Any]) -> dict[str, Any]:
    """A row of COLUMNS with its times as text."""
    times = {name: iso(row[name]) for name in _TIMES}
    return row | times | {"progress": _json(row["progress"])}


def _json(text: str | None) -> Any:
    return None if text is None else json.loads(text)
