"""Paying one payout through Stripe: on record before it is sent, and sent at most once in effect.

Stripe's rules this follows: https://docs.stripe.com/api/idempotent_requests - a key is replayed for
24 h (refusals and 500s included) and executes again after that.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zlib import crc32

from sqlalchemy.orm import Session

from app.crash import point
from app.gateways.stripe import (
    StripeKeyReused,
    StripeRateLimited,
    StripeRefused,
    StripeUnknownOutcome,
    Transfer,
)
from app.jobs.context import Context
from app.jobs.errors import NonRetriable, RetryAfter
from app.ledger.postings import CASH, EntryKind, Posting, creator_account, hold_account, post
from app.payouts.attempts import close, move, note_unknown, open_attempt, replace
from app.payouts.models import AttemptOutcome, Payout, PayoutAttempt, PayoutStatus
from app.payouts.request import Order, demanded

log = logging.getLogger(__name__)

KEY_WINDOW = timedelta(hours=23)
"""How old a key may be to be sent again: Stripe's 24 h less an hour for clocks and pauses."""
RATE_LIMIT_SECONDS = 5
RATE_LIMIT_SPREAD = 10


@dataclass(frozen=True, slots=True)
class Refusal:
    """Stripe's definite no."""

    code: str
    message: str


def pay(tx: Session, ctx: Context, order: Order) -> dict[str, Any]:
    """Pay `order`, as a step: its end is written through `tx`, which is not used before the call.

    A refusal is a result, not an error. Repeating it after a crash at any point goes on with the
    recorded attempt. Raises NonRetriable where the order does not fit (nothing is written then),
    RetryAfter at Stripe's rate limit, StripeUnknownOutcome where it must be tried again.
    """
    with ctx.transaction() as own:
        payout = demanded(own, order, ctx.now())
        if payout.status in (PayoutStatus.PAID, PayoutStatus.FAILED):
            return _told(payout)
        attempt = open_attempt(own, payout, ctx.now())
    point("payout.recorded")
    try:
        attempt, end = _sent(ctx, payout, attempt)
    except StripeRateLimited as limited:
        # Spread, so that those who were refused together do not come back together.
        spread = RATE_LIMIT_SECONDS + crc32(payout.id.encode()) % RATE_LIMIT_SPREAD
        wait = timedelta(seconds=spread if limited.retry_after is None else limited.retry_after)
        raise RetryAfter(str(limited), wait) from limited
    point("payout.sent")
    if isinstance(end, Refusal):
        return _refused(tx, payout, attempt, end, ctx.now())
    return _paid(tx, payout, attempt, end, ctx.now())


def _sent(
    ctx: Context, payout: Payout, attempt: PayoutAttempt
) -> tuple[PayoutAttempt, Transfer | Refusal]:
    if ctx.now() - attempt.first_sent_at > KEY_WINDOW:
        found = _look_up(ctx, payout)
        if found is not None:
            return attempt, found
        attempt = replace(ctx, payout, attempt)
    try:
        made = ctx.gateways.stripe.create_transfer(
            **json.loads(attempt.params), idempotency_key=attempt.key
        )
    except StripeRefused as no:
        # Stripe refuses a closed account before it looks at the key: an earlier send may stand.
        return attempt, _look_up(ctx, payout) or Refusal(no.code, no.message)
    except StripeUnknownOutcome as unclear:
        note_unknown(ctx, attempt, str(unclear))
        # A stored 500 is replayed for ever: after it only Stripe's list says what became of it.
        replayed = attempt.outcome == AttemptOutcome.UNKNOWN
        if not replayed and not isinstance(unclear, StripeKeyReused):
            raise
        found = _look_up(ctx, payout)
        if found is None:
            raise
        return attempt, found
    return attempt, made


def _look_up(ctx: Context, payout: Payout) -> Transfer | None:
    """The transfer Stripe has for the payout, whichever attempt made it.

    Raises NonRetriable where it has one that is not the payout's: a person must look.
    """
    found = list(ctx.gateways.stripe.list_transfers(transfer_group=payout.id))
    if not found:
        return None
    wanted = (payout.amount, payout.currency, payout.destination, 0)
    first = found[0]
    has = (first.amount_minor, first.currency, first.destination, first.amount_reversed_minor)
    if len(found) > 1 or has != wanted:
        ids = ", ".join(transfer.id for transfer in found)
        raise NonRetriable(f"payout {payout.id}: not the transfer it should have: {ids}")
    log.info("transfer found at Stripe", extra={"payout": payout.id, "transfer": first.id})
    return first


def _paid(
    tx: Session, payout: Payout, attempt: PayoutAttempt, made: Transfer, now: datetime
) -> dict[str, Any]:
    done = {"transfer_id": made.id, "settled_at": now}
    move(tx, payout.id, PayoutStatus.SENDING, PayoutStatus.PAID, **done)
    close(tx, attempt.key, now, AttemptOutcome.PAID, transfer_id=made.id)
    _post(tx, payout, EntryKind.SETTLE, attempt.key, CASH, now)
    return {"payoutId": payout.id, "status": PayoutStatus.PAID.value, "transferId": made.id}


def _refused(
    tx: Session, payout: Payout, attempt: PayoutAttempt, no: Refusal, now: datetime
) -> dict[str, Any]:
    done = {"reason": no.code, "settled_at": now}
    move(tx, payout.id, PayoutStatus.SENDING, PayoutStatus.FAILED, **done)
    close(tx, attempt.key, now, AttemptOutcome.REFUSED, code=no.code, message=no.message)
    _post(tx, payout, EntryKind.RELEASE, attempt.key, creator_account(payout.creator_id), now)
    log.warning("payout refused", extra={"payout": payout.id, "code": no.code})
    return {"payoutId": payout.id, "status": PayoutStatus.FAILED.value, "reason": no.code}


def _told(payout: Payout) -> dict[str, Any]:
    told: dict[str, Any] = {"payoutId": payout.id, "status": payout.status}
    if payout.status == PayoutStatus.PAID:
        return told | {"transferId": payout.transfer_id}
    return told | {"reason": payout.reason}


def _post(
    tx: Session, payout: Payout, kind: EntryKind, ref: str, credit: str, now: datetime
) -> None:
    hold = hold_account(payout.id)
    post(tx, [Posting(kind, ref, hold, credit, payout.currency, payout.amount, now)])
