"""The layer's own jobs: the relay for where no process of its own can run, retention, the comparing
of live runs with their shadows, and the canary of `cutover verify`."""

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
from app.switchyard.runs.create import SHADOW_JOB
from app.switchyard.runs.models import FailureRow, HandoffRow
from app.switchyard.runs.relay import sweep
from app.switchyard.runs.retention import Prune, prune_record, prune_steps
from app.switchyard.runtime import current

PRUNES: dict[str, Prune] = {
    "steps": prune_steps,
    "failures": partial(prune_record, FailureRow),
    "handoffs": partial(prune_record, HandoffRow),
    "shadows": shadow.prune_shadows,
    "nonces": prune_nonces,
}
MOST = 500
"""Batches a day, as Inngest takes no more than 1,000 steps of one run; the rest goes tomorrow."""
LONGEST_PAUSE = timedelta(hours=1)
PATIENCE = timedelta(hours=48)
"""How long a live run is waited for: a pay day that waits for funds takes a day."""


@job("relay-sweep", event="runs.relay", payload=Empty, queue="maintenance", attempts=1)
def relay_sweep(ctx: Context, _payload: Empty) -> dict[str, int]:
    """One sweep, a look for ticks that no clock proposed, and one of the guardrail. It has no step:
    it may be repeated at will, and beside any other relay."""
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
    """Delete what has been done with for RETENTION_DAYS and no promise needs, a batch a step; how
    many rows. The row of a run stays, shadows apart: `(job, key)` is what makes a repeat of its
    intent harmless, a year later too. Money is never touched."""
    days = current().settings.retention_days
    before, left = ctx.created_at - timedelta(days=days), MOST if days else 0
    gone = dict.fromkeys(PRUNES, 0)
    for what, prune in PRUNES.items():
        after: str | None = ""
        while after is not None and left:
            deleted, after = ctx.step.run(what, prune, before, after)
            gone[what], left = gone[what] + deleted, left - 1
    return gone


class Shadowed(JobPayload):
    """A live run."""

    run_id: str = Field(min_length=1, max_length=32)


@job(
    SHADOW_JOB,
    event="runs.shadow",
    payload=Shadowed,
    queue="maintenance",
    key=lambda payload: payload.run_id,
)
def shadow_compare(ctx: Context, payload: Shadowed) -> dict[str, Any]:
    """Plan what the live run does, wait for its end, and compare the two."""
    found = ctx.step.run("plan", shadow.plan, ctx, payload.run_id)
    waited, pause, number = timedelta(0), timedelta(seconds=1), 0
    while not found["done"]:
        ctx.step.sleep(f"wait-{number}", pause)
        waited, pause, number = waited + pause, min(2 * pause, LONGEST_PAUSE), number + 1
        last = waited > PATIENCE
        found = ctx.step.run(f"compare-{number}", shadow.compare, ctx, payload.run_id, last)
    return found


class Canary(JobPayload):
    """What it sings."""

    song: str


def sing(_tx: Session, song: str) -> str:
    return song


@job("canary", event="runs.canary", payload=Canary, queue="maintenance", gaps=(1.0,), attempts=3)
def canary(ctx: Context, payload: Canary) -> dict[str, str]:
    """One step, and the name of the side it was done on."""
    return {"song": ctx.step.run("sing", sing, payload.song), "backend": ctx.backend}
