"""All that is known of one run: what its page draws."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from app.switchyard.clock import iso
from app.switchyard.runs import reading
from app.switchyard.runs.models import FailureRow as F
from app.switchyard.runs.models import HandoffRow as H
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import StepRow as S

MOST = 200
"""Failed attempts that are shown, the latest."""


def story(connection: Connection, run_id: str) -> dict[str, Any]:
    """The run as `runs show --json` has it, with when its steps began, each failed attempt, each
    hand-off, its trace, and what its backend calls it. Raises UnknownRun."""
    run = reading.one(connection, run_id)
    [own] = connection.execute(
        select(R.sent_ref, R.holder, R.trace, R.move_to, R.stage_version).where(R.id == run_id)
    )
    began = {
        row.name: {"began_at": iso(row.began_at), "until": iso(row.until)}
        for row in connection.execute(select(S.name, S.began_at, S.until).where(S.run_id == run_id))
    }
    columns = (F.step, F.attempt, F.backend, F.began_at, F.at, F.error, F.message, F.traceback)
    latest = select(*columns).where(F.run_id == run_id).order_by(F.id.desc()).limit(MOST)
    moves = select(H.at, H.from_backend, H.to_backend, H.epoch).where(H.run_id == run_id)
    unknown = {"began_at": None, "until": None}
    return {
        **run,
        **own._asdict(),
        "steps": [step | began.get(step["name"], unknown) for step in run["steps"]],
        "failures": [_timed(row._asdict()) for row in connection.execute(latest)][::-1],
        "handoffs": [_timed(row._asdict()) for row in connection.execute(moves.order_by(H.id))],
    }


def _timed(row: dict[str, Any]) -> dict[str, Any]:
    times = {name: iso(row[name]) for name in ("began_at", "at") if name in row}
    return row | times
