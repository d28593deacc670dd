"""Rolling earnings up: each night what changed, each month the month before."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from app.platform.earnings import rollup
from app.platform.earnings.posting import post_earnings
from app.platform.earnings.rollup_models import daily
from app.platform.payouts.jobs import Day
from app.platform.statements.make import make_page
from app.platform.statements.notices import statements_made
from app.switchyard.clock import in_reach
from app.switchyard.context import Context
from app.switchyard.job import JobPayload, Shadow, job
from app.switchyard.job_errors import NonRetriable, RetryAfter

STEP_DAYS = 31
STEP_TIME = timedelta(seconds=10)
"""After which a step takes no further day: it is one transaction, and SQLite has one writer."""
_ONE = timedelta(days=1)
_AGAIN = timedelta(seconds=30)


_Day = Annotated[Day, AfterValidator(in_reach)]


class TargetDay(JobPayload):
    """Up to and with which day, UTC; by default the one before the run was made."""

    target_date: _Day | None = None


class TargetMonth(JobPayload):
    """Which month, UTC, or a day in it; by default the one before the run was made."""

    target_month: Annotated[str, Field(pattern=r"^\d{4}-(0[1-9]|1[0-2])$")] | None = None
    target_date: _Day | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> TargetMonth:
        if self.target_month is not None and self.target_date is not None:
            raise ValueError("give targetMonth or targetDate, not both")
        self.month()
        return self

    def month(self) -> date | None:
        """Its first day. Raises ValueError for a year that is out of reach."""
        if self.target_month is not None:
            return in_reach(date.fromisoformat(f"{self.target_month}-01"))
        return None if self.target_date is None else self.target_date.replace(day=1)


def _day_key(payload: TargetDay) -> str | None:
    return None if payload.target_date is None else payload.target_date.isoformat()


def _day_tick(occurrence: datetime) -> TargetDay:
    return TargetDay(target_date=occurrence.date() - _ONE)


def _day_plan(tx: Session, payload: TargetDay, now: datetime) -> dict[str, Any]:
    day = payload.target_date or now.date() - _ONE
    waiting = [one.isoformat() for one in rollup.dirty(tx, day + _ONE)]
    return {"dirty": waiting, **rollup.plan_day_rollup(tx, day)}


def _day_outcome(tx: Session, _payload: TargetDay, result: dict[str, Any]) -> dict[str, Any]:
    return rollup.rolled_day(tx, date.fromisoformat(result["targetDate"]))


@job(
    "daily-earnings-rollup",
    event="earnings.rollup-daily",
    schedule="0 2 * * *",
    missed="last",  # it rolls up its day and all that changed before
    payload=TargetDay,
    queue="analytics",
    key=_day_key,
    tick=_day_tick,
    concurrency=1,
    timeout=3600.0,
    plan=_day_plan,
    # Other days that are dirty are rolled up on the way, and then are not.
    shadow=Shadow(outcome=_day_outcome, ignore=("dirty",)),
)
def daily_earnings_rollup(ctx: Context, payload: TargetDay) -> dict[str, Any]:
    """Roll up the target day and all before it that changed, and their months; the day's totals."""
    day = payload.target_date or ctx.created_at.date() - _ONE
    posted = ctx.step.run("post", post_earnings)
    return {"targetDate": day.isoformat(), "posted": posted, **_roll_all(ctx, date.min, day)}


def _roll_all(ctx: Context, since: date, until: date) -> dict[str, Any]:
    months, days, number = set[str](), 0, 0
    while True:
        done = ctx.step.run(f"days-{number}", _roll, ctx, since, until)
        days += done["days"]
        months.update(done["months"])
        if done["last"] is None:
            return {"days": days, "months": sorted(months), "platform": done["platform"]}
        since, number = date.fromisoformat(done["last"]) + _ONE, number + 1


def _roll(tx: Session, ctx: Context, since: date, until: date) -> dict[str, Any]:
    """The next days from `since`, as many as a step may have; the `last` where there are more."""
    began = ctx.now()
    left = rollup.dirty(tx, until + _ONE, since)
    # Where the marks do not tell: a day that was never rolled up.
    if until not in left and not tx.scalar(select(exists().where(daily.c.day == until))):
        left.append(until)
    days = list[date]()
    for day in left[:STEP_DAYS]:
        rollup.roll_day(tx, day)
        days.append(day)
        if ctx.now() - began > STEP_TIME or ctx.stopping():
            break
    months = rollup.roll_months(tx, days)
    more = len(days) < len(left)
    return {
        "days": len(days),
        "months": [f"{month:%Y-%m}" for month in months],
        "last": days[-1].isoformat() if more else None,
        "platform": [] if more else rollup.platform_day(tx, until),
    }


def _month_key(payload: TargetMonth) -> str | None:
    month = payload.month()
    return None if month is None else f"{month:%Y-%m}"


def _month_tick(occurrence: datetime) -> TargetMonth:
    return TargetMonth(target_month=f"{_before(occurrence):%Y-%m}")


@job(
    "monthly-earnings-rollup",
    event="earnings.rollup-monthly",
    schedule="0 3 1 * *",
    missed="all",  # each month has totals and statements of its own
    payload=TargetMonth,
    queue="analytics",
    key=_month_key,
    tick=_month_tick,
    concurrency=1,
    timeout=3600.0,
)
def monthly_earnings_rollup(ctx: Context, payload: TargetMonth) -> dict[str, Any]:
    """Roll up a month and what changed in it, check it against earnings and ledger, and make its
    creators' statements, where it was over when the run was made; the totals."""
    month = payload.month() or _before(ctx.created_at)
    end = rollup.following(month)
    days = _roll_all(ctx, month, end - _ONE)["days"]
    totals = ctx.step.run("month", _month, month)
    told = {"month": f"{month:%Y-%m}", "days": days, "totals": totals}
    made, wrong, number = 0, list[str](), 0
    after = "" if end <= ctx.created_at.date() else None
    while after is not None:
        page = ctx.step.run(f"statements-{number}", _statements, ctx, month, after)
        made, after, number = made + page["made"], page["last"], number + 1
        wrong += page["wrong"]
    return {**told, "statements": made, "statementsWrong": wrong}


def _statements(tx: Session, ctx: Context, month: date, after: str) -> dict[str, Any]:
    page = make_page(tx, ctx, month, after)
    statements_made(tx, page["new"])
    return page


def _month(tx: Session, month: date) -> list[dict[str, Any]]:
    """Nothing is kept of a month that does not hold."""
    post_earnings(tx)
    end = rollup.following(month)
    for day in rollup.dirty(tx, end, month):
        rollup.roll_day(tx, day)
    rollup.roll_month(tx, month)
    if wrong := rollup.check_month(tx, month):
        if rollup.dirty(tx, end, month):
            raise RetryAfter(f"earnings of {month:%Y-%m} came in meanwhile", _AGAIN)
        raise NonRetriable("; ".join(wrong))
    return rollup.month_totals(tx, month)


def _before(moment: datetime) -> date:
    return (moment.date().replace(day=1) - _ONE).replace(day=1)
