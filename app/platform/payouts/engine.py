"""Paying through Stripe, leg by leg: on record before it is sent, and once in effect.

Stripe's rules this follows: https://docs.stripe.com/api/idempotent_requests - a key is replayed for
24 h (refusals and 500s included) and executes again after that.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from zlib import crc32

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.platform.gateways.stripe import AT_ONCE
from app.platform.gateways.stripe_answers import (
    BankPayout,
    StripeKeyReused,
    StripeRateLimited,
    StripeRefused,
    StripeReplayedError,
    StripeUnknownOutcome,
    Transfer,
)
from app.platform.payouts.attempts import (
    PayoutMoved,
    Try,
    note_unknown,
    open_attempts,
    record,
    replace,
)
from app.platform.payouts.legs import Leg, NeedsPerson
from app.platform.payouts.models import AttemptOutcome, Payout, PayoutStatus
from app.platform.payouts.request import SinglePayout, demanded
from app.switchyard.context import Context
from app.switchyard.crash import point
from app.switchyard.errors import NonRetriable, RetryAfter

log = logging.getLogger(__name__)

PAGE_SIZE = 100
GIVE_UP_AFTER = 2 * AT_ONCE
"""Calls of a page in a row without an answer, after which Stripe is taken to be unavailable."""
KEY_WINDOW = timedelta(hours=23)
"""How old a key may be to be sent again: Stripe's 24 h less an hour for clocks and pauses."""
SERVER_ERROR_STANDS = timedelta(minutes=10)
"""After this long Stripe's list is believed where it has nothing of a call answered by a 5xx, once
that answer is a replay: it is for the key's whole life, and only another key can still pay."""
RATE_LIMIT_SECONDS = 5
RATE_LIMIT_SPREAD = 10
_SETTLES = (Transfer, BankPayout, StripeRefused)
_LEAVES_OPEN = (StripeUnknownOutcome, StripeRateLimited, PayoutMoved)


def pay_page(tx: Session, ctx: Context, leg: Leg, after: str, dry: Sequence[str]) -> dict[str, Any]:
    """One leg of the run's next hundred payouts with ids past `after`, as a step.

    Returns the page's `last` id (None: there are no more), how many `landed`, were `refused` and
    are `open` still, and the currencies run `dry`: no payout in one of those is sent any more until
    the next round. What came of it is written through `tx`, which is not used before the calls; a
    crash at any point is gone on with from the recorded attempts. Raises StripeMisconfigured.
    """
    try:
        funds = leg.affordable(ctx.gateways.stripe)
    except (StripeUnknownOutcome, StripeRateLimited) as unavailable:
        log.warning("page left for the next round", extra={"why": str(unavailable)})
        return {"last": None, "landed": 0, "refused": 0, "open": 1, "dry": list(dry)}
    dried = set(dry)
    with ctx.transaction() as own:
        mine = (Payout.run_id == ctx.run_id, Payout.status.in_([leg.ready, leg.sending]))
        query = select(Payout).where(*mine, Payout.id > after).order_by(Payout.id)
        page = list(own.scalars(query.limit(PAGE_SIZE + 1).with_for_update()))
        last = page[PAGE_SIZE - 1].id if len(page) > PAGE_SIZE else None
        page = page[:PAGE_SIZE]
        tries = open_attempts(own, leg, _covered(page, leg, funds, dried), ctx.now())
    _send(ctx, leg, tries)
    stuck = unclear = 0
    for one in tries:
        if isinstance(one.end, NeedsPerson):
            stuck += 1
        elif one.end is None or isinstance(one.end, _LEAVES_OPEN):
            unclear += 1
        elif not isinstance(one.end, _SETTLES):
            raise one.end
        elif isinstance(one.end, StripeRefused) and one.end.code == leg.no_funds:
            dried.add(one.payout.currency)
    statuses = record(tx, leg, tries, ctx.now())
    refused = statuses[PayoutStatus.FAILED] + statuses[PayoutStatus.BANK_FAILED]
    short = statuses[PayoutStatus.REQUESTED]
    return {
        "last": last,
        "landed": statuses.total() - refused - short,
        "refused": refused,
        "open": unclear + len(page) - len(tries) + short,
        "dry": sorted(dried),
    }


def pay_one(tx: Session, ctx: Context, leg: Leg, order: SinglePayout) -> dict[str, Any]:
    """One leg of the payout that `order` names, as a step; one that is not known is requested.

    A refusal is a result, not an error. Raises PayoutRefused where the order does not fit (nothing
    is written then), RetryAfter at Stripe's rate limit, StripeUnknownOutcome where it must be tried
    again, NonRetriable where a person must look.
    """
    with ctx.transaction() as own:
        payout = demanded(own, order, ctx.now())
        here = [payout] if payout.status in (leg.ready, leg.sending) else []
        tries = open_attempts(own, leg, here, ctx.now())
    _send(ctx, leg, tries)
    for one in tries:
        if isinstance(one.end, StripeRateLimited):
            wait = one.end.retry_after
            if wait is None:  # spread, so that those refused together do not come back together
                wait = RATE_LIMIT_SECONDS + crc32(payout.id.encode()) % RATE_LIMIT_SPREAD
            raise RetryAfter(str(one.end), timedelta(seconds=wait)) from one.end
        if isinstance(one.end, NeedsPerson):
            raise NonRetriable(str(one.end)) from one.end
        if isinstance(one.end, Exception) and not isinstance(one.end, StripeRefused):
            raise one.end
    record(tx, leg, tries, ctx.now())
    payout = tx.get_one(Payout, order.payout_id)
    return {
        "payoutId": payout.id,
        "status": payout.status,
        "reason": payout.reason,
        "transferId": payout.transfer_id,
        "bankPayoutId": payout.bank_payout_id,
    }


def _covered(
    page: Sequence[Payout], leg: Leg, funds: Mapping[str, int] | None, dry: set[str]
) -> list[Payout]:
    """Those that may be sent; the others wait for a top-up of their currency, which is now `dry`.

    What is being sent already goes first: it may have left the balance or not, and its key decides.
    From the first that does not fit on, a currency waits: nobody is passed by a smaller payout.
    """
    if funds is None:
        return list(page)
    spent, covered = Counter[str](), list[Payout]()
    for payout in page:
        if payout.status == leg.ready:
            if spent[payout.currency] + payout.amount > funds.get(payout.currency, 0):
                dry.add(payout.currency)
            if payout.currency in dry:
                continue
            spent[payout.currency] += payout.amount
        covered.append(payout)
    return covered


def _send(ctx: Context, leg: Leg, tries: Sequence[Try]) -> None:
    """Send all that is on record, each once; those that are left for the next round end in None."""
    silent = 0

    def send(one: Try) -> None:
        nonlocal silent
        if one is not tries[0] and (silent >= GIVE_UP_AFTER or ctx.stopping()):
            return
        try:
            one.end = _outcome(ctx, leg, one)
        except Exception as failure:  # noqa: BLE001 - the page's other payouts go on
            one.end = failure
        silent = silent + 1 if isinstance(one.end, StripeUnknownOutcome) else 0

    point("payout.recorded")
    ctx.gateways.stripe.each(send, tries)
    point("payout.sent")
    note_unknown(ctx, [one for one in tries if isinstance(one.end, StripeUnknownOutcome)])
    for one in tries:
        if isinstance(one.end, NeedsPerson):
            log.error("payout needs a person", extra={"payout": one.payout.id, "why": str(one.end)})
        elif isinstance(one.end, StripeRefused):
            log.warning("payout refused", extra={"payout": one.payout.id, "code": one.end.code})


def _outcome(ctx: Context, leg: Leg, one: Try) -> Transfer | BankPayout | StripeRefused:
    if ctx.now() - one.attempt.first_sent_at > KEY_WINDOW:
        there = _looked_up(ctx, leg, one)
        if there is not None:
            return there
        replace(ctx, leg, one)
    try:
        return leg.send(ctx.gateways.stripe, one.payout, one.attempt)
    except StripeRefused as no:
        # Stripe refuses a closed account before it looks at the key: an earlier send may stand.
        return _looked_up(ctx, leg, one) or no
    except StripeUnknownOutcome as unclear:
        # A stored 500 is replayed for ever: after it only Stripe's list says what became of it.
        replayed = one.attempt.outcome == AttemptOutcome.UNKNOWN
        if not replayed and not isinstance(unclear, StripeKeyReused):
            raise
        there = _looked_up(ctx, leg, one)
        if there is not None:
            return there
        sent_for = ctx.now() - one.attempt.first_sent_at
        if not isinstance(unclear, StripeReplayedError) or sent_for < SERVER_ERROR_STANDS:
            raise
        # Its key is spent on a 5xx that had no effect: only another one can still pay.
        replace(ctx, leg, one)
        return _outcome(ctx, leg, one)


def _looked_up(ctx: Context, leg: Leg, one: Try) -> Transfer | BankPayout | None:
    try:
        return leg.look_up(ctx.gateways.stripe, one.payout, one.attempt)
    except StripeRefused as no:
        # No answer to the question, so it is no refusal of the payout.
        raise NeedsPerson(f"payout {one.payout.id}: Stripe does not show it: {no}") from no
