"""Where each job stands in its migration: its stage, what is open or failed on each side, and what
speaks against calling it complete."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Unpack

from sqlalchemy import bindparam, func, literal_column, select

from app.switchyard.cutover import shadow, stages
from app.switchyard.cutover.shadow import UNEXPLAINED
from app.switchyard.cutover.stages import Record, StageChange
from app.switchyard.db import Database
from app.switchyard.errors import BackendUnavailable, GateClosed
from app.switchyard.job import SERVERLESS
from app.switchyard.runs.models import RunRow as R
from app.switchyard.runs.models import Status
from app.switchyard.runtime import Runtime
from flags import LEGACY_BACKEND, Stage, StageRow

BACKENDS = (LEGACY_BACKEND, *SERVERLESS)
WINDOW = timedelta(hours=24)
LATE = timedelta(minutes=1)
"""After which a run that is due and that nobody has claimed is overdue."""
_NONE = {"compared": 0, "different": 0, "unexplained": 0}
EVER = datetime(2000, 1, 1, tzinfo=UTC)
GUARDRAIL = "guardrail"
"""Who steps back by itself, as the history has it."""
CALM = timedelta(hours=24)
"""How long after a guardrail fired a job is not taken for ready."""

# The range makes SQLite read the partial index of open runs; without it, it walks all runs by job.
OPEN = (
    select(R.job, R.backend, func.count())
    .where(R.check_at.is_not(None), R.check_at > bindparam("ever"))
    .group_by(R.job, R.backend)
)
# Due for long, and nobody has come for it: its queue is behind, or accepts and never runs.
OVERDUE = OPEN.where(
    R.status != Status.RUNNING,
    R.holder.is_(None),
    R.due_at < bindparam("late", type_=R.due_at.type),
)
# Spelled out, not bound: SQLite uses a partial index only where the text implies its condition.
FAILED = (
    select(R.job, R.backend, func.count())
    .where(R.status == literal_column("'failed'"), R.ended_at >= bindparam("since"))
    .group_by(R.job, R.backend)
)


def cutover_status(made: Runtime, only: Collection[str] | None = None) -> dict[str, Any]:
    """`cutover status --json`; with `only`, of these jobs.

    Jobs that have open or failed runs but that this code does not know come last.
    """
    at = {row.job: row for row in stages.current_stages(made.db)}
    now = made.store.clock()
    overdue: dict[str, dict[str, int]] = defaultdict(dict)
    opened: dict[str, dict[str, int]] = defaultdict(dict)
    failed: dict[str, dict[str, int]] = defaultdict(dict)
    with made.db.autocommit() as connection:
        for job, backend, count in connection.execute(OPEN, {"ever": EVER}):
            opened[job][backend] = count
        for job, backend, count in connection.execute(FAILED, {"since": now - WINDOW}):
            failed[job][backend] = count
        for job, backend, count in connection.execute(OVERDUE, {"ever": EVER, "late": now - LATE}):
            overdue[job][backend] = count
    compared = shadow.counts(made.db)
    names = dict.fromkeys([*made.catalogue, *sorted(opened), *sorted(failed)])
    nowhere = StageRow("", Stage.LEGACY, None, 0)
    return {
        "use_inngest": made.settings.use_inngest,
        "jobs": [
            {
                "name": name,
                "stage": str(at.get(name, nowhere).stage),
                "percent": at.get(name, nowhere).percent,
                "open": _per_backend(opened[name]),
                "overdue": _per_backend(overdue[name]),
                "failed_24h": _per_backend(failed[name]),
                "parity": {
                    **compared.get(name, _NONE),
                    "plan": name in made.catalogue and made.catalogue[name].plan is not None,
                },
            }
            for name in names
            if only is None or name in only
        ],
    }


def unreachable(made: Runtime, shown: dict[str, Any]) -> dict[str, str]:
    """The backends that hold open runs of what was `shown` and do not answer, each with why."""
    holding = {b for job in shown["jobs"] for b, count in job["open"].items() if count}
    silent: dict[str, str] = {}
    for backend in sorted(holding):
        try:
            made.store.backends[backend].ping()
        except BackendUnavailable as failure:
            silent[backend] = str(failure)
    return silent


def _per_backend(counts: dict[str, int]) -> dict[str, int]:
    return dict.fromkeys(BACKENDS, 0) | counts


def obstacles(db: Database, job: str, now: datetime) -> list[str]:
    """What speaks against `complete` for the job, each with what to do about it."""
    C = StageChange
    # The range makes the partial index of open runs serve.
    opened = select(func.count()).where(
        R.check_at.is_not(None), R.check_at > EVER, R.job == job, R.backend == LEGACY_BACKEND
    )
    fired = select(func.max(C.at)).where(C.job == job, C.by == GUARDRAIL, C.at > now - CALM)
    with db.autocommit() as connection:
        left = connection.scalar(opened) or 0
        differences = list(connection.scalars(UNEXPLAINED, {"job": job}))
        last = connection.scalar(fired)
    found = []
    if left:
        found.append(f"{left} open runs on the old side (cutover drain {job} --to serverless)")
    if differences:
        found.append(f"{len(differences)} differences nobody has explained (cutover parity {job})")
    if last is not None:
        found.append(f"the guardrail fired at {last:%Y-%m-%d %H:%M} UTC, less than 24 hours ago")
    return found


def move(
    db: Database,
    job: str,
    stage: str,
    percent: float | None,
    *,
    force: bool = False,
    **told: Unpack[Record],
) -> StageChange:
    """Move `job` to `stage`, through the gate where that is `complete`; `force` opens it, which
    goes on record where it was closed. Raises GateClosed, and StageRefused, as where the job does
    not stand at version `expected` any more."""
    found = obstacles(db, job, told["now"]) if stage == Stage.COMPLETE else []
    if found and not force:
        raise GateClosed(f"{job} is not complete: {'; '.join(found)}; or --force")
    if found and told["why"].strip():
        told["why"] = f"{told['why'].strip()} (forced past: {'; '.join(found)})"
    told["forced"] = bool(found)
    return stages.set_stage(db, job, stage, percent, **told)
