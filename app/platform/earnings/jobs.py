"""The jobs that roll up earnings each night and keep the answers about them in the cache."""

from __future__ import annotations

from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from app.platform.days import Day
from app.platform.earnings import cached, rollup
from app.platform.earnings.models import daily
from app.platform.earnings.posting import post_earnings
from app.switchyard import runtime
from app.switchyard.context import Context
from app.switchyard.job import Empty, JobPayload, Shadow, job

STEP_DAYS = 31
STEP_TIME = timedelta(seconds=10)
"""After this time a step begins no further day: it is one transaction, and SQLite has one writer.
"""
_ONE = timedelta(days=1)


class TargetDay(JobPayload):
    """The last day to roll up, in UTC; by default the day before the run was created."""

    target_date: Day | None = None


def _plan(tx: Session, payload: TargetDay, now: datetime) -> dict[str, Any]:
    day = payload.target_date or now.date() - _ONE
    waiting = [one.isoformat() for one in rollup.dirty(tx, day + _ONE)]
    return {"dirty": waiting, "day": f"{day}", "platform": rollup.planned_day(tx, day)}


def _outcome(tx: Session, _payload: TargetDay, result: dict[str, Any]) -> dict[str, Any]:
    day = date.fromisoformat(result["targetDate"])
    return {"day": f"{day}", "platform": rollup.platform_day(tx, day)}


@job(
    "daily-earnings-rollup",
    event="earnings.rollup-daily",
    schedule="0 2 * * *",
    missed="last",  # it rolls up its day and all earlier changes
    payload=TargetDay,
    queue="analytics",
    key=lambda payload: payload.target_date.isoformat() if payload.target_date else None,
    tick=lambda at: TargetDay(target_date=at.date() - _ONE),
    concurrency=1,
    timeout=3600.0,
    plan=_plan,
    # A run also rolls up other dirty days, which are then no longer dirty.
    shadow=Shadow(outcome=_outcome, ignore=("dirty",)),
)
def daily_earnings_rollup(ctx: Context, payload: TargetDay) -> dict[str, Any]:
    """Roll up the target day and all before it that changed; the day's totals."""
    day = payload.target_date or ctx.created_at.date() - _ONE
    posted = ctx.step.run("post", post_earnings)
    return {"targetDate": day.isoformat(), "posted": posted, **roll_days(ctx, date.min, day)}


def roll_days(ctx: Context, since: date, until: date) -> dict[str, Any]:
    """Roll up the days in [since, until] that changed, in steps. Returns how many `days`, and the
    `platform` totals of the last one."""
    days, number = 0, 0
    while True:
        done = ctx.step.run(f"days-{number}", _roll, ctx, since, until)
        days += done["days"]
        if done["last"] is None:
            return {"days": days, "platform": done["platform"]}
        since, number = date.fromisoformat(done["last"]) + _ONE, number + 1


def _roll(tx: Session, ctx: Context, since: date, until: date) -> dict[str, Any]:
    """Roll up the next days from `since` that fit into a step. `last` is None at the end."""
    began = ctx.now()
    left = rollup.dirty(tx, until + _ONE, since)
    # Marks do not show a day that was never rolled up.
    if until not in left and not tx.scalar(select(exists().where(daily.c.day == until))):
        left.append(until)
    days = list[date]()
    for day in left[:STEP_DAYS]:
        rollup.roll_day(tx, day)
        days.append(day)
        if ctx.now() - began > STEP_TIME or ctx.stopping():
            break
    more = len(days) < len(left)
    return {
        "days": len(days),
        "last": days[-1].isoformat() if more else None,
        "platform": [] if more else rollup.platform_day(tx, until),
    }


@job(
    "warm-analytics-cache",
    event="analytics.warm-cache",
    payload=Empty,
    queue="analytics",
    schedule="15 * * * *",
    missed="last",  # one run warms the whole cache
    concurrency=1,
)
def warm_analytics_cache(ctx: Context, _payload: Empty) -> dict[str, Any]:
    """Compute the queries asked most in the last day anew, before their answers grow old."""
    return ctx.step.run("warm", _warm, ctx.now())


def _warm(_tx: Session, now: datetime) -> dict[str, Any]:
    parts, warmed = runtime.current(), 0
    queries = cached.most_asked(parts.cache, now)
    for query in queries:
        with suppress(ValueError):  # another version of the code counted it
            asked = cached.QUERY.validate_json(query)
            asked.cached(parts.cache, parts.db, now, refresh=True)
            warmed += 1
    return {"asked": len(queries), "warmed": warmed}
