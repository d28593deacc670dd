"""Paying through Stripe, leg by leg: on record before it is sent, and once in effect.

Stripe's rules this follows: https://docs.stripe.com/api/idempotent_requests - a key is replayed for
24 h (refusals and 500s included) and executes again after that.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from zlib import crc32

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.platform.gateways import pace
from app.platform.gateways.pace import AT_ONCE
from app.platform.gateways.stripe import (
    StripeKeyReused,
    StripeRateLimited,
    StripeRefused,
    StripeReplayedError,
    StripeUnknownOutcome,
)
from app.platform.payouts.attempts import (
    PayoutMoved,
    Sent,
    Try,
    note_unknown,
    open_attempts,
    record,
    replace,
)
from app.platform.payouts.legs import Landed, Leg, NeedsPerson, Refusal, covered
from app.platform.payouts.models import AttemptOutcome, Payout, PayoutAttempt, PayoutStatus
from app.platform.payouts.request import Order, demanded
from app.switchyard.context import Context
from app.switchyard.crash import point
from app.switchyard.errors import NonRetriable, RetryAfter, SwitchyardError

log = logging.getLogger(__name__)

PAGE_SIZE = 100
GIVE_UP_AFTER = 2 * AT_ONCE
"""Calls of a page in a row without an answer, after which Stripe is taken to be away."""
STRIPE_PACE = "stripe"
KEY_WINDOW = timedelta(hours=23)
"""How old a key may be to be sent again: Stripe's 24 h less an hour for clocks and pauses."""
SERVER_ERROR_STANDS = timedelta(minutes=10)
"""After this long Stripe's list is believed where it has nothing of a call answered by a 5xx, once
that answer is a replay: it is for the key's whole life, and only another key can still pay."""
RATE_LIMIT_SECONDS = 5
RATE_LIMIT_SPREAD = 10


def pay_page(tx: Session, ctx: Context, leg: Leg, after: str, dry: Sequence[str]) -> dict[str, Any]:
    """One leg of the run's next hundred payouts with ids past `after`, as a step.

    Returns the page's `last` id (None: there are no more), how many `landed`, were `refused` and
    are `open` still, and the currencies run `dry`: no payout in one of those is sent any more until
    the next round. What came of it is written through `tx`, which is not used before the calls; a
    crash at any point is gone on with from the recorded attempts. Raises StripeMisconfigured.
    """
    try:
        funds = leg.affordable(ctx.gateways.stripe)
    except (StripeUnknownOutcome, StripeRateLimited) as away:
        log.warning("page left for the next round", extra={"why": str(away)})
        return {"last": None, "landed": 0, "refused": 0, "open": 1, "dry": list(dry)}
    last, waiting, dried = None, 0, set(dry)

    def choose(own: Session) -> list[Payout]:
        nonlocal last, waiting, dried
        mine = (Payout.run_id == ctx.run_id, Payout.status.in_([leg.ready, leg.sending]))
        query = select(Payout).where(*mine, Payout.id > after).order_by(Payout.id)
        page = list(own.scalars(query.limit(PAGE_SIZE + 1).with_for_update()))
        last = page[PAGE_SIZE - 1].id if len(page) > PAGE_SIZE else None
        left = funds if funds is None else {c: 0 if c in dried else funds[c] for c in funds}
        sent, unfunded = covered(page[:PAGE_SIZE], leg, left)
        waiting, dried = len(unfunded), dried | {payout.currency for payout in unfunded}
        return sent

    sent = _attempt(ctx, leg, choose)
    unclear = 0
    for one in sent:
        if isinstance(one.end, Refusal) and one.end.code == leg.no_funds:
            dried.add(one.payout.currency)
        elif isinstance(one.end, Exception):
            if not isinstance(one.end, _LEAVES_OPEN):
                raise one.end
            unclear += not isinstance(one.end, NeedsPerson)
    statuses = Counter(record(tx, leg, sent, ctx.now()).values())
    refused = statuses[PayoutStatus.FAILED] + statuses[PayoutStatus.BANK_FAILED]
    short = statuses[PayoutStatus.REQUESTED]
    return {
        "last": last,
        "landed": statuses.total() - refused - short,
        "refused": refused,
        "open": unclear + waiting + short,
        "dry": sorted(dried),
    }


def pay_one(tx: Session, ctx: Context, leg: Leg, order: Order) -> dict[str, Any]:
    """One leg of the payout that `order` names, as a step; one that is not known is requested.

    A refusal is a result, not an error. Raises PayoutRefused where the order does not fit (nothing
    is written then), RetryAfter at Stripe's rate limit, StripeUnknownOutcome where it must be tried
    again, NonRetriable where a person must look.
    """

    def choose(own: Session) -> list[Payout]:
        payout = demanded(own, order, ctx.now())
        return [payout] if payout.status in (leg.ready, leg.sending) else []

    for one in _attempt(ctx, leg, choose):
        if isinstance(one.end, StripeRateLimited):
            raise RetryAfter(str(one.end), _spread(one)) from one.end
        if isinstance(one.end, NeedsPerson):
            raise NonRetriable(str(one.end)) from one.end
        if isinstance(one.end, Exception):
            raise one.end
        record(tx, leg, [one], ctx.now())
    payout = tx.get_one(Payout, order.payout_id)
    result = {"payoutId": payout.id, "status": payout.status, "reason": payout.reason}
    return result | {"transferId": payout.transfer_id, "bankPayoutId": payout.bank_payout_id}


class _KeySpent(SwitchyardError):
    """Stripe replays a 5xx that had no effect: only another key can still pay."""


class NotSent(SwitchyardError):
    """On record, and not sent this time: Stripe is away, or the process is stopping."""


_LEAVES_OPEN = (StripeUnknownOutcome, StripeRateLimited, PayoutMoved, NeedsPerson, NotSent)


def _attempt(ctx: Context, leg: Leg, choose: Callable[[Session], Sequence[Payout]]) -> list[Sent]:
    """Put an attempt on record for each chosen payout, then send them all."""
    with ctx.transaction() as own:
        tries = open_attempts(own, leg, choose(own), ctx.now())
        rate = ctx.gateways.stripe.calls_per_second
        places = pace.take(own, STRIPE_PACE, len(tries), rate, ctx.now())
    point("payout.recorded")
    silent = 0

    def send(place: int, one: Try) -> Sent:
        """At its place in the pace; never raises."""
        nonlocal silent
        if place and (silent >= GIVE_UP_AFTER or ctx.stopping()):
            return Sent(*one, NotSent("left for the next round"))
        places.wait(place)
        sent = _sent(ctx, leg, *one)
        silent = silent + 1 if isinstance(sent.end, StripeUnknownOutcome) else 0
        return sent

    with ThreadPoolExecutor(min(AT_ONCE, max(1, len(tries)))) as pool:
        sent = list(pool.map(send, range(len(tries)), tries))
    point("payout.sent")
    note_unknown(ctx, [one for one in sent if isinstance(one.end, StripeUnknownOutcome)])
    for one in sent:
        if isinstance(one.end, NeedsPerson):
            log.error("payout needs a person", extra={"payout": one.payout.id, "why": str(one.end)})
        elif isinstance(one.end, Refusal):
            log.warning("payout refused", extra={"payout": one.payout.id, "code": one.end.code})
    return sent


def _sent(ctx: Context, leg: Leg, payout: Payout, attempt: PayoutAttempt) -> Sent:
    try:
        if ctx.now() - attempt.first_sent_at > KEY_WINDOW:
            there = leg.look_up(ctx.gateways.stripe, payout, attempt)
            if there is not None:
                return Sent(payout, attempt, there)
            attempt = replace(ctx, leg, payout, attempt)
        try:
            return Sent(payout, attempt, _answer(ctx, leg, payout, attempt))
        except _KeySpent:
            attempt = replace(ctx, leg, payout, attempt)
            return Sent(payout, attempt, _answer(ctx, leg, payout, attempt))
    except Exception as failure:  # noqa: BLE001 - the page's other payouts go on; the caller looks
        return Sent(payout, attempt, failure)


def _answer(ctx: Context, leg: Leg, payout: Payout, attempt: PayoutAttempt) -> Landed | Refusal:
    stripe = ctx.gateways.stripe
    try:
        return leg.send(stripe, attempt)
    except StripeRefused as no:
        # Stripe refuses a closed account before it looks at the key: an earlier send may stand.
        return leg.look_up(stripe, payout, attempt) or Refusal(no.code, no.message)
    except StripeUnknownOutcome as unclear:
        # A stored 500 is replayed for ever: after it only Stripe's list says what became of it.
        replayed = attempt.outcome == AttemptOutcome.UNKNOWN
        if not replayed and not isinstance(unclear, StripeKeyReused):
            raise
        there = leg.look_up(stripe, payout, attempt)
        if there is not None:
            return there
        sent_for = ctx.now() - attempt.first_sent_at
        if not isinstance(unclear, StripeReplayedError) or sent_for < SERVER_ERROR_STANDS:
            raise
        raise _KeySpent(str(unclear)) from unclear


def _spread(limited: Sent) -> timedelta:
    # Spread, so that those who were refused together do not come back together.
    asked = limited.end.retry_after if isinstance(limited.end, StripeRateLimited) else None
    spread = RATE_LIMIT_SECONDS + crc32(limited.payout.id.encode()) % RATE_LIMIT_SPREAD
    return timedelta(seconds=spread if asked is None else asked)
