"""Keeping the cache warm."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.platform.earnings import popular
from app.platform.earnings.top import TopCreators
from app.switchyard import runtime
from app.switchyard.context import Context
from app.switchyard.errors import BadInput
from app.switchyard.job import Empty, job

TOP = 20


@job(
    "warm-analytics-cache",
    event="analytics.warm-cache",
    payload=Empty,
    queue="analytics",
    schedule="15 * * * *",
    missed="last",  # the cache is warm or it is not
    concurrency=1,
)
def warm_analytics_cache(ctx: Context, _payload: Empty) -> dict[str, Any]:
    """Compute the queries asked most in the last day anew, before their answers grow old."""
    names = ctx.step.run("popular", _popular, ctx.now())
    return ctx.step.run("warm", _warm, names, ctx.now())


def _popular(_tx: Session, now: datetime) -> list[str]:
    return popular.top(runtime.current().cache, TOP, now)


def _warm(_tx: Session, names: list[str], now: datetime) -> dict[str, Any]:
    made, warmed = runtime.current(), 0
    for name in names:
        try:
            query = TopCreators.named(name)
        except BadInput:
            continue  # another version of the code counted it
        query.cached(made.cache, made.db, now, refresh=True)
        warmed += 1
    return {"asked": len(names), "warmed": warmed}
