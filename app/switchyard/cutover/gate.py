"""The gate before `complete`: what the old side still has to do, or nobody has explained."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Unpack

from sqlalchemy import func, select

from app.switchyard.cutover import stages
from app.switchyard.cutover.parity import UNEXPLAINED
from app.switchyard.cutover.stages import OnRecord, StageChange
from app.switchyard.db import Database
from app.switchyard.errors import GateClosed
from app.switchyard.runs.models import RunRow as R
from flags import LEGACY_BACKEND, Stage

GUARDRAIL = "guardrail"
"""Who steps back by itself, as the history has it."""
CALM = timedelta(hours=24)
"""How long after a guardrail fired a job is not taken for ready."""
_EVER = datetime(2000, 1, 1, tzinfo=UTC)


def obstacles(db: Database, job: str, now: datetime) -> list[str]:
    """What speaks against `complete` for the job, each with what to do about it."""
    C = StageChange
    # The range makes the partial index of open runs serve.
    opened = select(func.count()).where(
        R.check_at.is_not(None), R.check_at > _EVER, R.job == job, R.backend == LEGACY_BACKEND
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
    **told: Unpack[OnRecord],
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
