"""Paying creators: the pay day, and one payout."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from app.jobs.catalogue import JobPayload, job
from app.jobs.context import Context
from app.payouts import eligibility, engine, pages
from app.payouts.models import MAX_ID_LENGTH
from app.payouts.request import Order

MAX_AMOUNT = 999_999_999_999
"""Stripe takes at most twelve digits of minor units, in any currency."""


def _iso_date(value: object) -> object:
    # Pydantic alone would take a number for a time since 1970.
    if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        raise ValueError("must be a date as YYYY-MM-DD")
    if not isinstance(value, str | date):
        raise ValueError("must be a date as YYYY-MM-DD")
    return value


class PayDay(JobPayload):
    """A pay day, UTC."""

    payout_date: Annotated[date, BeforeValidator(_iso_date)]
    # Filled in, so that an event without it and the clock's own are one and the same intent.
    day_of_month: int = Field(default_factory=lambda data: data["payout_date"].day, ge=1, le=31)


class SinglePayout(JobPayload):
    """One payout; `amount` in minor units of `currency` (default: the creator's own)."""

    # It becomes Stripe's idempotency key, which takes printable ASCII only.
    payout_id: str = Field(pattern=r"^[A-Za-z0-9_.:-]+$", max_length=MAX_ID_LENGTH)
    creator_id: str = Field(min_length=1, max_length=64)
    amount: int = Field(strict=True, gt=0, le=MAX_AMOUNT)
    stripe_account_id: str = Field(min_length=1, max_length=64)
    currency: str | None = Field(default=None, pattern=r"^[a-z]{3}$")


def _pay_day_key(payload: PayDay) -> str:
    return payload.payout_date.isoformat()


def _pay_day_tick(occurrence: datetime) -> PayDay:
    return PayDay(payout_date=occurrence.date(), day_of_month=occurrence.day)


def _payout_key(payload: SinglePayout) -> str:
    return payload.payout_id


@job(
    "process-payouts",
    event="payout.scheduled",
    schedule="0 9 1,15 * *",
    payload=PayDay,
    queue="payouts",
    key=_pay_day_key,
    tick=_pay_day_tick,
    concurrency=1,
)
def process_payouts(ctx: Context, payload: PayDay) -> dict[str, Any]:
    """Pay every eligible creator their whole balance, a child run each; totals of the day."""
    day = payload.payout_date
    planned = ctx.step.run("plan", eligibility.reserve, day, ctx.now())
    ends = ctx.step.run("pages", pages.page_ends, day)
    after = ""
    for number, last in enumerate(ends):
        orders = pages.Page(ctx, day, after, last)
        ctx.step.dispatch(f"pay-{number}", "process-single-payout", orders)
        after = last
    runs = ctx.step.join("settled")
    totals = ctx.step.run("summary", pages.summary, day)
    return {**totals, **planned, "runs": runs}


@job(
    "process-single-payout",
    event="payout.process-single",
    payload=SinglePayout,
    queue="payouts",
    key=_payout_key,
    concurrency=10,
    ramp_by="creator_id",
)
def process_single_payout(ctx: Context, payload: SinglePayout) -> dict[str, Any]:
    """Pay one payout; one that is not known yet is a manual one and requested on the spot."""
    order = Order(
        payout_id=payload.payout_id,
        creator_id=payload.creator_id,
        amount=payload.amount,
        destination=payload.stripe_account_id,
        currency=payload.currency,
    )
    return ctx.step.run("pay", engine.pay, ctx, order)
