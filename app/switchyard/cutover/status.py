"""How far each job is in its migration: its stage, and its open and failed runs on each side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import and_, bindparam, case, func, literal_column, select

from app.switchyard.cutover import shadow
from app.switchyard.cutover.stages import current_stages
from app.switchyard.errors import BackendUnavailable
from app.switchyard.job import SERVERLESS
from app.switchyard.runs.models import IS_OPEN, Status
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runtime import Runtime
from flags import LEGACY_BACKEND, Stage, StageRow

BACKENDS = (LEGACY_BACKEND, *SERVERLESS)
WINDOW = timedelta(hours=24)
LATE = timedelta(minutes=1)
"""How late a claim, a tick or a look of the relay may be before it counts as missing."""

SYNC_REFUSED = "inngest-sync-refused"
"""The cache's key for the reason why Inngest refused its last sync."""
_COUNTED = select(R.job, R.backend, func.count().label("runs")).group_by(R.job, R.backend)
# Due for long, and not claimed: its queue is behind, or accepts runs without delivering them.
_OVERDUE = and_(
    R.status != Status.RUNNING,
    R.holder.is_(None),
    R.due_at < bindparam("late", type_=R.due_at.type),
)
OPEN = _COUNTED.where(IS_OPEN).add_columns(
    func.sum(case((_OVERDUE, 1), else_=0)).label("overdue"),
    func.min(case((_OVERDUE, R.due_at))).label("oldest"),
)
"""The open runs by job and backend: how many there are, how many are overdue since they were due
before `late`, and when the oldest of those was due."""
# Written out, not bound: SQLite uses a partial index only where the text implies its condition.
FAILED = _COUNTED.where(R.status == literal_column("'failed'"), R.ended_at >= bindparam("since"))


def cutover_status(
    runtime: Runtime, only: Collection[str] | None = None, *, open_runs: Sequence[Any] | None = None
) -> dict[str, Any]:
    """The document of `cutover status --json`, of all jobs or of `only` these. Whoever has read
    OPEN already passes its rows as `open_runs`.

    Jobs that this code does not know, but that have open or failed runs, come last.
    """
    stages = {row.job: row for row in current_stages(runtime.db)}
    now = runtime.store.clock()
    opened, overdue, failed = _by_job(), _by_job(), _by_job()
    if open_runs is None:
        open_runs = runtime.db.rows(OPEN, {"late": now - LATE})
    for row in open_runs:
        opened[row.job][row.backend], overdue[row.job][row.backend] = row.runs, row.overdue
    for row in runtime.db.rows(FAILED, {"since": now - WINDOW}):
        failed[row.job][row.backend] = row.runs
    compared = shadow.counts(runtime.db)
    names = dict.fromkeys([*runtime.catalogue, *sorted(opened), *sorted(failed)])
    jobs = []
    for name in names if only is None else [name for name in names if name in only]:
        at = stages.get(name, StageRow(name, Stage.LEGACY, None, 0))
        has_plan = name in runtime.catalogue and runtime.catalogue[name].plan is not None
        jobs.append(
            {
                "name": name,
                "stage": str(at.stage),
                "percent": at.percent,
                "version": at.version,
                "open": opened[name],
                "overdue": overdue[name],
                "failed_24h": failed[name],
                "parity": compared[name] | {"plan": has_plan},
            }
        )
    return {"use_inngest": runtime.settings.use_inngest, "jobs": jobs}


def _by_job() -> defaultdict[str, dict[str, int]]:
    return defaultdict(lambda: dict.fromkeys(BACKENDS, 0))


def unreachable(runtime: Runtime, status: dict[str, Any]) -> dict[str, str]:
    """The backends that hold open runs in this status but do not answer, each with the reason.
    Inngest is among them also where it refused its last sync."""
    holding = {b for job in status["jobs"] for b, count in job["open"].items() if count}
    silent: dict[str, str] = {}
    for backend in sorted(holding):
        try:
            runtime.store.backends[backend].ping()
        except BackendUnavailable as failure:
            silent[backend] = str(failure)
    if (why := sync_refusal(runtime)) is not None:
        silent.setdefault("inngest", f"its last sync was refused: {why}")
    return silent


def sync_refusal(runtime: Runtime) -> str | None:
    """Why Inngest refused its last sync, or None where it did not or that is unknown."""
    why: str | None = runtime.cache.get(SYNC_REFUSED)
    return why
