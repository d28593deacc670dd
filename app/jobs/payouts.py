"""Paying creators: the pay day, and one payout."""

from __future__ import annotations

import logging
import re
from collections import Counter
from datetime import date, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from sqlalchemy.orm import Session

from app.jobs.catalogue import Empty, JobPayload, job
from app.jobs.context import Context
from app.jobs.errors import NonRetriable
from app.ledger.postings import trial_balance
from app.payouts import accounts, eligibility, engine, pages, retry
from app.payouts.differences import Reconciliation
from app.payouts.models import MAX_ID_LENGTH
from app.payouts.reconcile import WINDOW, reconcile, unbalanced
from app.payouts.request import Order

log = logging.getLogger(__name__)

MAX_AMOUNT = 999_999_999_999
"""Stripe takes at most twelve digits of minor units, in any currency."""


def _iso_date(value: object) -> object:
    # Pydantic alone would take a number for a time since 1970.
    if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        raise ValueError("must be a date as YYYY-MM-DD")
    if not isinstance(value, str | date):
        raise ValueError("must be a date as YYYY-MM-DD")
    return value


Day = Annotated[date, BeforeValidator(_iso_date)]


class PayDay(JobPayload):
    """A pay day, UTC."""

    payout_date: Day
    # Filled in, so that an event without it and the clock's own are one and the same intent.
    day_of_month: int = Field(default_factory=lambda data: data["payout_date"].day, ge=1, le=31)


class Retry(JobPayload):
    """Which failed payouts: of one pay day (UTC), or of the last 30 days."""

    payout_date: Day | None = None


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
    planned = ctx.step.run("plan", _plan, day, ctx.now())
    ends = ctx.step.run("pages", pages.page_ends, day)
    after = ""
    for number, last in enumerate(ends):
        orders = pages.Page(ctx, day, after, last)
        ctx.step.dispatch(f"pay-{number}", "process-single-payout", orders)
        after = last
    runs = ctx.step.join("settled")
    totals = ctx.step.run("summary", _summary, ctx, day)
    return {**totals, **planned, "runs": runs}


def _plan(tx: Session, day: date, now: datetime) -> dict[str, Any]:
    """Reserve, if the books balance and no hold is overdrawn: else no money may move."""
    if wrong := unbalanced(trial_balance(tx)):
        raise NonRetriable(f"nobody is paid, the books do not balance: {'; '.join(wrong)}")
    return eligibility.reserve(tx, day, now)


def _summary(tx: Session, ctx: Context, day: date) -> dict[str, Any]:
    # Before `tx` begins: it is not to be open while Stripe answers.
    found = _reconciled(ctx, ctx.created_at)
    return {**pages.summary(tx, day), "reconciled": found.counts()}


def _reconciled(ctx: Context, since: datetime) -> Reconciliation:
    found = reconcile(ctx.transaction, ctx.gateways.stripe, ctx.now(), since)
    if not found.ok:
        log.error("ledger and Stripe differ", extra={"differences": len(found.differences)})
    return found


@job(
    "retry-failed-payouts",
    event="payout.retry-failed",
    schedule="0 10 * * *",
    payload=Retry,
    queue="payouts",
    concurrency=1,
)
def retry_failed_payouts(ctx: Context, payload: Retry) -> dict[str, Any]:
    """Pay what may be paid now, a child run each; how many, and why the others are left."""
    # The key that the payout's first run has is done with; two retries at once share theirs.
    own = int(ctx.created_at.timestamp())
    retried, left = 0, Counter[str]()
    number, last = 0, ""
    while last is not None:
        page = ctx.step.run(f"reopen-{number}", retry.reopen, last, payload.payout_date, ctx.now())
        orders, last = page["orders"], page["last"]
        if orders:
            keys = [f"{order['payoutId']}#{own}" for order in orders]
            ctx.step.dispatch(f"pay-{number}", "process-single-payout", orders, keys=keys)
        retried += len(orders)
        left.update(page["left"])
        number += 1
    runs = ctx.step.join("settled")
    return {"retried": retried, "left": dict(left), "runs": runs}


@job(
    "update-account-statuses",
    event="account.update-statuses",
    schedule="0 * * * *",
    payload=Empty,
    queue="payouts",
    concurrency=1,
)
def update_account_statuses(ctx: Context, _payload: Empty) -> dict[str, int]:
    """Bring what Stripe says of every creator's account into the database."""
    return ctx.step.run("sync", accounts.sync, ctx)


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


@job(
    "reconcile-payouts",
    event="payout.reconcile",
    schedule="30 10 * * *",
    payload=Empty,
    queue="payouts",
    concurrency=1,
)
def reconcile_payouts(ctx: Context, _payload: Empty) -> dict[str, Any]:
    """The ledger against Stripe's own list, the last 30 days: as `payouts reconcile --json`."""
    return ctx.step.run("reconcile", _whole, ctx)


def _whole(_tx: Session, ctx: Context) -> dict[str, Any]:
    return _reconciled(ctx, ctx.now() - WINDOW).document()
