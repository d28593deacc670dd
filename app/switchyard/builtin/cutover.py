"""The migration's own job: comparing a live run with what its shadow planned."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pydantic import Field

from app.switchyard.context import Context
from app.switchyard.cutover import shadow
from app.switchyard.job import JobPayload, job
from app.switchyard.runs.create import SHADOW_JOB

LONGEST_PAUSE = timedelta(hours=1)
PATIENCE = timedelta(hours=48)
"""How long a live run is waited for: a pay day that waits for funds takes a day."""


class Shadowed(JobPayload):
    """A live run."""

    run_id: str = Field(min_length=1, max_length=32)


def _key(payload: Shadowed) -> str:
    return payload.run_id


@job(SHADOW_JOB, event="runs.shadow", payload=Shadowed, queue="maintenance", key=_key)
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
