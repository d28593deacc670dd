"""The benchmark's jobs."""

from __future__ import annotations

import time

from sqlalchemy.orm import Session

from app.switchyard.context import Context
from app.switchyard.job import JobPayload, job


class Number(JobPayload):
    """A number."""

    n: int


@job("bench-noop", event="bench.noop", payload=Number, queue="bench")
def bench_noop(ctx: Context, payload: Number) -> None:
    """Nothing."""


class Three(JobPayload):
    """How long each step takes."""

    n: int
    wait_seconds: float = 0.0


def _work(_tx: Session, seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@job("bench-three", event="bench.three", payload=Three, queue="bench")
def bench_three(ctx: Context, payload: Three) -> list[float]:
    """Three steps."""
    return [ctx.step.run(f"step {n}", _work, payload.wait_seconds) for n in range(3)]
