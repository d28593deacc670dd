"""The layer's own jobs: a relay for platforms where no relay process can run, retention, the
comparison of live runs with their shadows, and the canary of `cutover verify`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import Any

from pydantic import Field
from sqlalchemy.orm import Session

from app.switchyard.context import Context
from app.switchyard.cutover import guardrail, shadow
from app.switchyard.cutover.clock import catch_up
from app.switchyard.job import Empty, JobPayload, job
from app.switchyard.nonces import prune_nonces
from app.switchyard.runs.models import FailureRow, HandoffRow
from app.switchyard.runs.relay import sweep
from app.switchyard.runs.retention import Prune, prune_record, prune_steps
from app.switchyard.runs.store import SHADOW_JOB
from app.switchyard.runtime import current

PRUNES: dict[str, Prune] = {
    "steps": prune_steps,
    "failures": partial(prune_record, FailureRow),
    "handoffs": partial(prune_record, HandoffRow),
    "shadows": shadow.prune_shadows,
    "nonces": prune_nonces,
}
MOST = 500
"""How many batches a day. Inngest allows 1,000 steps in a run; the rest is left to tomorrow."""
LONGEST_PAUSE = timedelta(hours=1)
PATIENCE = timedelta(hours=48)
"""How long to wait for a live run. A pay day that waits for funds takes a day."""


@job("relay-sweep", event="runs.relay", payload=Empty, queue="maintenance", attempts=1)
def relay_sweep(ctx: Context, _payload: Empty) -> dict[str, int]:
    """One sweep of the relay, one look for missed ticks, and one look by the guardrail. It has no
    steps, since it may be repeated at will, beside any other relay."""
    runtime = current()
    catch_up(runtime, ctx.now())
    return {**asdict(sweep(runtime.store)), "stepped_back": len(guardrail.look(runtime))}


@job(
    "prune-ledger",
    event="runs.prune",
    payload=Empty,
    queue="maintenance",
    schedule="20 4 * * *",
    missed="last",  # it deletes all that is old
)
def prune_ledger(ctx: Context, _payload: Empty) -> dict[str, int]:
    """Delete what ended RETENTION_DAYS ago and no promise needs, one batch a step. Returns how many
    rows were deleted. Rows of runs stay, apart from shadows: `(job, key)` keeps the same request
    harmless a year later. Money is never touched."""
    days, prunes = current().settings.retention_days, PRUNES | current().prunes
    before, left = ctx.created_at - timedelta(days=days), MOST if days else 0
    gone = dict.fromkeys(prunes, 0)
    for what, prune in prunes.items():
        after: str | None = ""
        while after is not None and left:
            deleted, after = ctx.step.run(what, prune, before, after)
            gone[what], left = gone[what] + deleted, left - 1
    return gone


class Shadowed(JobPayload):
    """Names a live run."""

    run_id: str = Field(min_length=1, max_length=32)


@job(
    SHADOW_JOB,
    event="runs.shadow",
    payload=Shadowed,
    queue="maintenance",
    key=lambda payload: payload.run_id,
)
def shadow_compare(ctx: Context, payload: Shadowed) -> dict[str, Any]:
    """Plan what the live run should do, wait for its end, and compare the two."""
    found = ctx.step.run("plan", shadow.plan, ctx, payload.run_id)
    waited, pause, number = timedelta(0), timedelta(seconds=1), 0
    while not found["done"]:
        ctx.step.sleep(f"wait-{number}", pause)
        waited, pause, number = waited + pause, min(2 * pause, LONGEST_PAUSE), number + 1
        last = waited > PATIENCE
        found = ctx.step.run(f"compare-{number}", shadow.compare, ctx, payload.run_id, last)
    return found


class Canary(JobPayload):
    """The canary's payload."""

    song: str


def sing(_tx: Session, song: str) -> str:
    return song


@job("canary", event="runs.canary", payload=Canary, queue="maintenance", gaps=(1.0,), attempts=3)
def canary(ctx: Context, payload: Canary) -> dict[str, str]:
    """Do one step. Returns the name of the side that did it."""
    return {"song": ctx.step.run("sing", sing, payload.song), "backend": ctx.backend}
