"""The ledger's own upkeep: the relay as a job, for where no process of its own can run (start it
from any clock), and retention."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

from app.switchyard import runtime
from app.switchyard.context import Context
from app.switchyard.cutover import guardrail
from app.switchyard.cutover.clock import catch_up
from app.switchyard.cutover.shadow import prune_shadows
from app.switchyard.job import Empty, job
from app.switchyard.runs.relay import sweep
from app.switchyard.runs.retention import prune_steps

PRUNES = {"steps": prune_steps, "shadows": prune_shadows}
MOST = 500
"""Batches a day, as Inngest takes no more than 1,000 steps of one run; the rest goes tomorrow."""


@job("relay-sweep", event="runs.relay", payload=Empty, queue="maintenance", attempts=1)
def relay_sweep(ctx: Context, _payload: Empty) -> dict[str, int]:
    """One sweep, a look for ticks that no clock proposed, and one of the guardrail. It has no step:
    it may be repeated at will, and beside any other relay."""
    made = runtime.current()
    catch_up(made, ctx.now())
    return {**asdict(sweep(made.store)), "stepped_back": len(guardrail.look(made))}


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
    days = runtime.current().settings.retention_days
    before, left = ctx.created_at - timedelta(days=days), MOST if days else 0
    gone = dict.fromkeys(PRUNES, 0)
    for what, prune in PRUNES.items():
        after: str | None = ""
        while after is not None and left:
            deleted, after = ctx.step.run(what, prune, before, after)
            gone[what], left = gone[what] + deleted, left - 1
    return gone
