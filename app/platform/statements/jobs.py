"""Closing a month: its earnings rolled up and checked, and its creators' statements made."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Annotated, Any

from pydantic import Field, model_validator
from sqlalchemy.orm import Session

from app.platform.earnings import rollup
from app.platform.earnings.jobs import DayInReach, roll_days
from app.platform.earnings.posting import post_earnings
from app.platform.statements.links import mail_links
from app.platform.statements.make import make_page
from app.switchyard.clock import in_reach
from app.switchyard.context import Context
from app.switchyard.errors import NonRetriable, RetryAfter
from app.switchyard.job import JobPayload, job

_ONE = timedelta(days=1)
_AGAIN = timedelta(seconds=30)


class TargetMonth(JobPayload):
    """Which month, UTC, or a day in it; by default the one before the run was made."""

    target_month: Annotated[str, Field(pattern=r"^\d{4}-(0[1-9]|1[0-2])$")] | None = None
    target_date: DayInReach | None = None

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


@job(
    "monthly-earnings-rollup",
    event="earnings.rollup-monthly",
    schedule="0 3 1 * *",
    missed="all",  # each month has totals and statements of its own
    payload=TargetMonth,
    queue="analytics",
    key=lambda payload: f"{month:%Y-%m}" if (month := payload.month()) else None,
    tick=lambda at: TargetMonth(target_month=f"{_before(at):%Y-%m}"),
    concurrency=1,
    timeout=3600.0,
)
def monthly_earnings_rollup(ctx: Context, payload: TargetMonth) -> dict[str, Any]:
    """Roll up a month and what changed in it, check it against earnings and ledger, and make its
    creators' statements, where it was over when the run was made; the totals."""
    month = payload.month() or _before(ctx.created_at)
    end = rollup.following(month)
    days = roll_days(ctx, month, end - _ONE)["days"]
    totals = ctx.step.run("month", _month, month)
    rolled = {"month": f"{month:%Y-%m}", "days": days, "totals": totals}
    made, wrong, number = 0, list[str](), 0
    after = "" if end <= ctx.created_at.date() else None
    while after is not None:
        page = ctx.step.run(f"statements-{number}", _statements, ctx, month, after)
        made, after, number = made + page["made"], page["last"], number + 1
        wrong += page["wrong"]
    return {**rolled, "statements": made, "statementsWrong": wrong}


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


def _statements(tx: Session, ctx: Context, month: date, after: str) -> dict[str, Any]:
    page = make_page(tx, ctx, month, after)
    mail_links(tx, page["new"])
    return page


def _before(moment: datetime) -> date:
    return (moment.date().replace(day=1) - _ONE).replace(day=1)
