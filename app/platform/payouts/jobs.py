"""The jobs that pay creators and that reconcile the books with Stripe."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any

from pydantic import Field
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from app.platform.days import Day
from app.platform.earnings.posting import post_earnings
from app.platform.gateways.stripe_webhooks import StripeEvent
from app.platform.ledger.postings import trial_balance
from app.platform.payouts import accounts, eligibility, engine, inbox, plan, retry
from app.platform.payouts.differences import Reconciliation
from app.platform.payouts.legs import BANK, TRANSFER, Leg
from app.platform.payouts.models import Payout, PayoutStatus
from app.platform.payouts.notify import notify, standing
from app.platform.payouts.reconcile import WINDOW, reconcile, unbalanced, unheard
from app.platform.payouts.request import SinglePayout
from app.switchyard.context import Context
from app.switchyard.errors import NonRetriable, StepFailed
from app.switchyard.job import Empty, JobPayload, Shadow, job

log = logging.getLogger(__name__)

_MINUTE, _HOUR = 60, 3600
GAPS = (
    *(10, 30, 2 * _MINUTE, 10 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE),
    *(n * _HOUR for n in (1, 3, 6, 12)),
)
"""The seconds between a run's rounds. The first gaps outlast a brief outage at Stripe, the next the
time after which its list is trusted, and the last leave time for a top-up."""


class PayDay(JobPayload):
    """A pay day, UTC."""

    payout_date: Day
    # Filled in, so that an event without it means the same run as the clock's own.
    day_of_month: int = Field(default_factory=lambda data: data["payout_date"].day, ge=1, le=31)


@job(
    "process-payouts",
    event="payout.scheduled",
    schedule="0 9 1,15 * *",
    missed="all",  # each pay day is promised, and reported, by its date
    payload=PayDay,
    queue="payouts",
    key=lambda payload: payload.payout_date.isoformat(),
    tick=lambda at: PayDay(payout_date=at.date(), day_of_month=at.day),
    concurrency=1,
    plan=lambda tx, payload, now: plan.plan_day(tx, payload.payout_date, now),
    shadow=Shadow(planned=plan.planned_payouts, outcome=plan.made_payouts),
)
def process_payouts(ctx: Context, payload: PayDay) -> dict[str, Any]:
    """Pay every eligible creator all that is payable, a hundred a step; totals of the day."""
    day = payload.payout_date
    result: dict[str, Any] = {"payoutDate": day.isoformat()}
    try:
        result |= ctx.step.run("plan", _reserve, ctx, day)
    except StepFailed as stopped:
        notify(ctx, result | {"stopped": str(stopped)})
        raise
    _pay_all(ctx, {"payoutDate": day.isoformat()})
    result |= ctx.step.run("summary", _summary, ctx, Payout.payout_date == day)
    notify(ctx, result)
    return result


def _reserve(tx: Session, ctx: Context, day: date) -> dict[str, Any]:
    """Set the money aside. Raises NonRetriable where the books do not balance."""
    post_earnings(tx)
    if wrong := unbalanced(trial_balance(tx)):
        raise NonRetriable(f"nobody is paid, the books do not balance: {'; '.join(wrong)}")
    return eligibility.reserve(tx, day, ctx.now(), ctx.run_id)


def _pay_all(ctx: Context, about: dict[str, Any]) -> None:
    """Pay both legs of all the run's payouts, in rounds, until none is open or no round is left."""

    def pay(number: int) -> int:
        left, dry = 0, list[str]()

        def step(leg: Leg, page: int, after: str) -> dict[str, Any]:
            name = f"{leg.name}-{number}-{page}"
            return ctx.step.run(name, engine.pay_page, ctx, leg, after, dry)

        for leg in (TRANSFER, BANK):
            for page in _pages(partial(step, leg)):
                dry, left = page["dry"], left + page["open"]
        if dry and number == 0:
            why = f"the platform's balance is too low: {', '.join(dry)}"
            notify(ctx, about | {"stopped": why})
        return left

    _in_rounds(ctx, pay)


def _pages(step: Callable[[int, str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The result of `step` for each page. It gets the page's number and the previous `last` id."""
    number, after = 0, ""
    while after is not None:
        page = step(number, after)
        yield page
        number, after = number + 1, page["last"]


def _in_rounds(ctx: Context, work: Callable[[int], int]) -> None:
    """Call `work`, and again after each gap while it returns that something is left."""
    for number, gap in enumerate((*GAPS, None)):
        if not work(number) or gap is None:
            return
        ctx.step.sleep(f"gap-{number}", timedelta(seconds=gap))


def _summary(tx: Session, ctx: Context, which: ColumnElement[bool]) -> dict[str, Any]:
    # Before `tx` begins, since it must not be open during calls to Stripe.
    both = _reconciled(ctx, ctx.created_at, banks=False)
    return {**standing(tx, which), "reconciled": both.counts()}


def _reconciled(ctx: Context, since: datetime, *, banks: bool) -> Reconciliation:
    both = reconcile(ctx.transaction, ctx.gateways.stripe, ctx.now(), since, banks=banks)
    if not both.ok:
        log.error("ledger and Stripe differ", extra={"differences": len(both.differences)})
    return both


@job(
    "retry-failed-payouts",
    event="payout.retry-failed",
    schedule="0 10 * * *",
    missed="last",  # it retries whatever failed in the last 30 days
    payload=Empty,
    queue="payouts",
    concurrency=1,
)
def retry_failed_payouts(ctx: Context, _payload: Empty) -> dict[str, Any]:
    """Try again what may go through now; how many, why the others are left, and what came of it."""
    taken, left = 0, Counter[str]()

    def step(number: int, after: str) -> dict[str, Any]:
        return ctx.step.run(f"reopen-{number}", retry.reopen, ctx.run_id, after, ctx.now())

    for page in _pages(step):
        taken += page["taken"]
        left.update(page["left"])
    result: dict[str, Any] = {"retried": taken, "left": dict(left)}
    if not taken:
        return result
    _pay_all(ctx, {})
    summary = ctx.step.run("summary", _summary, ctx, Payout.run_id == ctx.run_id)
    notify(ctx, {"leftOut": dict(left), **summary})
    return {**result, **summary}


@job(
    "update-account-statuses",
    event="account.update-statuses",
    schedule="0 * * * *",
    missed="last",  # only Stripe's present state counts
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
    key=lambda payload: payload.payout_id,
    concurrency=10,
    ramp_by="creator_id",
)
def process_single_payout(ctx: Context, payload: SinglePayout) -> dict[str, Any]:
    """Pay one payout; one that is not known yet is a manual one and requested on the spot."""
    result: dict[str, Any] = {}

    def pay(number: int) -> int:
        result.update(ctx.step.run(f"transfer-{number}", engine.pay_one, ctx, TRANSFER, payload))
        return int(result["status"] == PayoutStatus.REQUESTED)

    _in_rounds(ctx, pay)
    if result["status"] in (PayoutStatus.TRANSFERRED, PayoutStatus.PAYING):
        result.update(ctx.step.run("bank", engine.pay_one, ctx, BANK, payload))
    return result


@job(
    "handle-stripe-event",
    event="stripe.event",
    payload=StripeEvent,
    queue="payouts",
    key=lambda event: event.event_id,
    concurrency=10,
)
def handle_stripe_event(ctx: Context, event: StripeEvent) -> dict[str, Any]:
    """Act on one event, by what Stripe says of its object now."""
    return ctx.step.run("handle", inbox.handle, ctx, event)


@job(
    "reconcile-payouts",
    event="payout.reconcile",
    schedule="30 10 * * *",
    missed="last",  # it looks back 30 days
    payload=Empty,
    queue="payouts",
    concurrency=1,
)
def reconcile_payouts(ctx: Context, _payload: Empty) -> dict[str, Any]:
    """What Stripe says of bank payouts, taken over; then the ledger against Stripe's own lists, the
    last 30 days: as `payouts reconcile --json`."""
    moved = ctx.step.run("follow", _follow, ctx)

    def compare(_tx: Session) -> dict[str, Any]:
        return _reconciled(ctx, ctx.now() - WINDOW, banks=True).document()

    return {**ctx.step.run("reconcile", compare), "moved": moved}


def _follow(tx: Session, ctx: Context) -> int:
    now, stripe = ctx.now(), ctx.gateways.stripe
    news = unheard(ctx.transaction, stripe, now, now - WINDOW)
    return sum(inbox.heard(tx, one, now)["moved"] for one in news)
