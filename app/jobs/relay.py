"""The relay as a job, for where no process of its own can run: start it from any clock."""

from __future__ import annotations

from dataclasses import asdict

from app import runtime
from app.cutover import guardrail
from app.cutover.clocks import catch_up
from app.jobs.catalogue import Empty, job
from app.jobs.context import Context
from app.runs.relay import sweep


@job("relay-sweep", event="runs.relay", payload=Empty, queue="maintenance", attempts=1)
def relay_sweep(ctx: Context, _payload: Empty) -> dict[str, int]:
    """One sweep, a look for ticks that no clock proposed, and one of the guardrail. It has no step:
    it may be repeated at will, and beside any other relay."""
    made = runtime.current()
    catch_up(made, ctx.now())
    return {**asdict(sweep(made.store)), "stepped_back": len(guardrail.look(made))}
