"""The benchmark's jobs."""

from __future__ import annotations

from app.switchyard.context import Context
from app.switchyard.job import JobPayload, job


class Number(JobPayload):
    """A number."""

    n: int


@job("bench-noop", event="bench.noop", payload=Number, queue="bench")
def bench_noop(ctx: Context, payload: Number) -> None:
    """Nothing."""
