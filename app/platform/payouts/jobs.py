"""Paying creators: the pay day, the daily retry, one payout, and what keeps the books true."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from typing import Any

from pydantic import Field
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from app.platform.currencies import MAX_AMOUNT
from app.platform.days import Day
from app.platform.earnings.posting import post_earnings
from app.platform.ledger.postings import trial_balance
from app.platform.payouts import accounts, bank, eligibility, engine, inbox, notify, plan, retry
from app.platform.payouts.differences import Reconciliation
from app.platform.payouts.legs import BANK, TRANSFER, Leg
from app.platform.payouts.models import MAX_ID_LENGTH, Method, Payout, PayoutStatus
from app.platform.payouts.reconcile import WINDOW, reconcile, unbalanced
from app.platform.payouts.report import standing
from app.platform.payouts.request import Order
from app.switchyard.context import Context
from app.switchyard.errors import NonRetriable, StepFailed
from app.switchyard.job import Empty, JobPayload, Shadow, job

log = logging.getLogger(__name__)

_MINUTE, _HOUR = 60, 3600
GAPS = (
    *(10, 30, 2 * _MINUTE, 10 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE),
    *(n * _HOUR for n in (1, 3, 6, 12)),
)
"""Seconds between a run's rounds: the first outlast a bad moment at Stripe, the next the time after
which its list is believed, the last leave time for a top-up."""


class PayDay(JobPayload):
    """A pay day, UTC."""

    payout_date: Day
    # Filled in, so that an event without it and the clock's own are one and the same intent.
    day_of_month: int = Field(default_factory=lambda data: data["payout_date"].day, ge=1, le=31)


class Retry(JobPayload):
    """Which failed payouts: of one pay day (UTC), or of the last 30 days."""

    payout_date: Day | None = None


class ReceivedEvent(JobPayload):
    """An event of Stripe's that was kept."""

    event_id: str = Field(min_length=1, max_length=100)


class SinglePayout(JobPayload):
    """One payout; `amount` in minor units of `currency` (default: the creator's own)."""

    # It becomes Stripe's idempotency key, which takes printable ASCII only.
    payout_id: str = Field(pattern=r"^[A-Za-z0-9_.:-]+$", max_length=MAX_ID_LENGTH)
    creator_id: str = Field(min_length=1, max_length=64)
    amount: int = Field(strict=True, gt=0, le=MAX_AMOUNT)
    stripe_account_id: str = Field(min_length=1, max_length=64)
    currency: str | None = Field(default=None, pattern=r"^[a-z]{3}$")
    method: Method = Method.STANDARD


def _pay_day_key(payload: PayDay) -> str:
    return payload.payout_date.isoformat()


def _pay_day_tick(occurrence: datetime) -> PayDay:
    return PayDay(payout_date=occurrence.date(), day_of_month=occurrence.day)


def _payout_key(payload: SinglePayout) -> str:
    return payload.payout_id


def _event_key(payload: ReceivedEvent) -> str:
    return payload.event_id


def _pay_day_plan(tx: Session, payload: PayDay, now: datetime) -> dict[str, Any]:
    return plan.plan_day(tx, payload.payout_date, now)


def _pay_day_outcome(tx: Session, payload: PayDay, result: dict[str, Any]) -> dict[str, Any]:
    return plan.made_payouts(tx, payload.payout_date, result["requested"])


@job(
    "process-payouts",
    event="payout.scheduled",
    schedule="0 9 1,15 * *",
    missed="all",  # each pay day is promised, and reported, by its date
    payload=PayDay,
    queue="payouts",
    key=_pay_day_key,
    tick=_pay_day_tick,
    concurrency=1,
    plan=_pay_day_plan,
    shadow=Shadow(planned=plan.planned_payouts, outcome=_pay_day_outcome),
)
def process_payouts(ctx: Context, payload: PayDay) -> dict[str, Any]:
    """Pay every eligible creator all that is payable, a hundred a step; totals of the day."""
    day = payload.payout_date
    result: dict[str, Any] = {"payoutDate": day.isoformat()}
    try:
        result |= ctx.step.run("plan", _reserve, ctx, day)
    except StepFailed as stopped:
        _notify(ctx, result | {"stopped": str(stopped)})
        raise
    _pay_all(ctx, {"payoutDate": result["payoutDate"]})
    result |= ctx.step.run("summary", _summary, ctx, Payout.payout_date == day)
    _notify(ctx, result)
    return result


def _reserve(tx: Session, ctx: Context, day: date) -> dict[str, Any]:
    """Set the money aside, if the books balance and no hold is overdrawn: else none may move."""
    post_earnings(tx)
    if wrong := unbalanced(trial_balance(tx)):
        raise NonRetriable(f"nobody is paid, the books do not balance: {'; '.join(wrong)}")
    return eligibility.reserve(tx, day, ctx.now(), ctx.run_id)


def _pay_all(ctx: Context, about: dict[str, Any]) -> None:
    """Both legs of all the run's payouts, in rounds, until none is open or the rounds are over."""

    def pay(number: int) -> int:
        left, dry = 0, list[str]()
        for leg in (TRANSFER, BANK):
            still, dry = _leg(ctx, leg, number, dry)
            left += still
        if dry and number == 0:
            why = f"the platform's balance is too low: {', '.join(dry)}"
            _notify(ctx, about | {"stopped": why})
        return left

    _in_rounds(ctx, pay)


def _leg(ctx: Context, leg: Leg, number: int, dry: list[str]) -> tuple[int, list[str]]:
    """How many are open still, and the currencies that ran dry."""
    left = 0

    def step(page: int, after: str) -> dict[str, Any]:
        name = f"{leg.name}-{number}-{page}"
        return ctx.step.run(name, engine.pay_page, ctx, leg, after, dry)

    for done in _pages(step):
        dry, left = done["dry"], left + done["open"]
    return left, dry


def _pages(step: Callable[[int, str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What `step` says of each page: of its number, after the `last` id of the one before."""
    number, after = 0, ""
    while after is not None:
        page = step(number, after)
        yield page
        number, after = number + 1, page["last"]


def _in_rounds(ctx: Context, work: Callable[[int], int]) -> None:
    """`work`, again after each gap, while it says that something is left."""
    for number, gap in enumerate((*GAPS, None)):
        if not work(number) or gap is None:
            return
        ctx.step.sleep(f"gap-{number}", timedelta(seconds=gap))


def _summary(tx: Session, ctx: Context, which: ColumnElement[bool]) -> dict[str, Any]:
    # Before `tx` begins: it is not to be open while Stripe answers.
    both = _reconciled(ctx, ctx.created_at, banks=False)
    return {**standing(tx, which), "reconciled": both.counts()}


def _reconciled(ctx: Context, since: datetime, *, banks: bool) -> Reconciliation:
    both = reconcile(ctx.transaction, ctx.gateways.stripe, ctx.now(), since, banks=banks)
    if not both.ok:
        log.error("ledger and Stripe differ", extra={"differences": len(both.differences)})
    return both


def _notify(ctx: Context, known: dict[str, Any]) -> None:
    """Send the admins word, by mail and webhook; where that fails it stops nothing."""
    report = {"job": ctx.job, "runId": ctx.run_id, **known}
    for name, send in notify.ways(ctx):
        try:
            ctx.step.run(name, send, ctx, report)
        except StepFailed as failed:
            log.error("no word to the admins", extra={"by": name, "reason": str(failed)})


@job(
    "retry-failed-payouts",
    event="payout.retry-failed",
    schedule="0 10 * * *",
    missed="last",  # it takes whatever failed in the last 30 days
    payload=Retry,
    queue="payouts",
    concurrency=1,
)
def retry_failed_payouts(ctx: Context, payload: Retry) -> dict[str, Any]:
    """Try again what may go through now; how many, why the others are left, and what came of it."""
    taken, left, day = 0, Counter[str](), payload.payout_date

    def step(number: int, after: str) -> dict[str, Any]:
        name = f"reopen-{number}"
        return ctx.step.run(name, retry.reopen, ctx.run_id, after, day, ctx.now())

    for page in _pages(step):
        taken += page["taken"]
        left.update(page["left"])
    result: dict[str, Any] = {"retried": taken, "left": dict(left)}
    if not taken:
        return result
    _pay_all(ctx, {})
    summary = ctx.step.run("summary", _summary, ctx, Payout.run_id == ctx.run_id)
    _notify(ctx, {"leftOut": dict(left), **summary})
    return {**result, **summary}


@job(
    "update-account-statuses",
    event="account.update-statuses",
    schedule="0 * * * *",
    missed="last",  # what Stripe says now is all that counts
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
        method=payload.method,
    )
    result: dict[str, Any] = {}

    def pay(number: int) -> int:
        result.update(ctx.step.run(f"transfer-{number}", engine.pay_one, ctx, TRANSFER, order))
        return int(result["status"] == PayoutStatus.REQUESTED)

    _in_rounds(ctx, pay)
    if result["status"] in (PayoutStatus.TRANSFERRED, PayoutStatus.PAYING):
        result.update(ctx.step.run("bank", engine.pay_one, ctx, BANK, order))
    return result


@job(
    "handle-stripe-event",
    event="stripe.event",
    payload=ReceivedEvent,
    queue="payouts",
    key=_event_key,
    concurrency=10,
)
def handle_stripe_event(ctx: Context, payload: ReceivedEvent) -> dict[str, Any]:
    """Act on one event, by what Stripe says of its object now."""
    return ctx.step.run("handle", inbox.handle, ctx, payload.event_id)


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

    def step(number: int, after: str) -> dict[str, Any]:
        return ctx.step.run(f"follow-{number}", bank.follow_page, ctx, after)

    moved = sum(page["moved"] for page in _pages(step))
    return {**ctx.step.run("reconcile", _whole, ctx), "moved": moved}


def _whole(_tx: Session, ctx: Context) -> dict[str, Any]:
    return _reconciled(ctx, ctx.now() - WINDOW, banks=True).document()
