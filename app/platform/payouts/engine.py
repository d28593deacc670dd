"""Pays through Stripe, leg by leg. Each attempt is recorded before it is sent, and pays only once.

This follows https://docs.stripe.com/api/idempotent_requests: for 24 h a key's answer is replayed,
refusals and 500s included; after that, the same key executes again.
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
from app.platform.payouts import attempts
from app.platform.payouts.attempts import PayoutMoved, Try
from app.platform.payouts.legs import BANK, Leg, NeedsPerson
from app.platform.payouts.models import AttemptOutcome, Payout, PayoutStatus
from app.platform.payouts.request import SinglePayout, demanded
from app.switchyard.context import Context
from app.switchyard.crash import point
from app.switchyard.errors import NonRetriable, RetryAfter

log = logging.getLogger(__name__)

PAGE_SIZE = 100
GIVE_UP_AFTER = 2 * AT_ONCE
"""After this many consecutive calls without an answer, Stripe is considered unavailable."""
KEY_WINDOW = timedelta(hours=23)
"""The age up to which a key is resent: Stripe's 24 h less an hour for clocks and pauses."""
SERVER_ERROR_STANDS = timedelta(minutes=10)
"""After this long, a call whose replayed answer is a 5xx and that is not on Stripe's list had no
effect. The answer stays the same for the key's whole life, so only another key can still pay."""
RATE_LIMIT_SECONDS = 5
RATE_LIMIT_SPREAD = 10
_SETTLES = (Transfer, BankPayout, StripeRefused, NeedsPerson)
"""Nothing that another round could change."""
_LEAVES_OPEN = (StripeUnknownOutcome, StripeRateLimited, PayoutMoved)


def pay_page(tx: Session, ctx: Context, leg: Leg, after: str, dry: Sequence[str]) -> dict[str, Any]:
    """Pay one leg of the run's next hundred payouts with ids past `after`, as a step.

    Returns the page's `last` id (None if there are no more), how many `landed`, were `refused` and
    are still `open`, and the currencies that ran `dry`: payouts in those wait for the next round.
    Outcomes are written through `tx`, which is not used before the calls. After a crash at any
    point, the recorded attempts are continued. Raises StripeMisconfigured.
    """
    try:
        # Only transfers are limited by the platform's balance.
        funds = None if leg is BANK else ctx.gateways.stripe.platform_balance().available
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
        tries = attempts.open_attempts(own, leg, _covered(page, leg, funds, dried), ctx.now())
    _send(ctx, leg, tries)
    unclear = 0
    for one in tries:
        if one.end is None or isinstance(one.end, _LEAVES_OPEN):
            unclear += 1
        elif not isinstance(one.end, _SETTLES):
            raise one.end
        elif isinstance(one.end, StripeRefused) and one.end.code == leg.no_funds:
            dried.add(one.payout.currency)
    statuses = attempts.record(tx, leg, tries, ctx.now())
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
    """Pay one leg of the payout that `order` names, as a step. An unknown one is requested first.

    A refusal by Stripe is a result. Raises PayoutRefused where the order does not fit, with nothing
    written; RetryAfter at Stripe's rate limit; StripeUnknownOutcome where it must be retried; and
    NonRetriable where a person must look.
    """
    with ctx.transaction() as own:
        payout = demanded(own, order, ctx.now())
        here = [payout] if payout.status in (leg.ready, leg.sending) else []
        tries = attempts.open_attempts(own, leg, here, ctx.now())
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
    attempts.record(tx, leg, tries, ctx.now())
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
    """The payouts that may be sent. The others wait for a top-up of their currency, which is `dry`.
    `funds` is in minor units by currency, or None without a limit.

    A payout that is already being sent is always resent, and its key prevents a second payment.
    Once a payout does not fit, its currency waits, so that no smaller payout overtakes it.
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
    """Send each recorded attempt once. The `end` of those left for the next round is None."""
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
    attempts.note_unknown(ctx, [one for one in tries if isinstance(one.end, StripeUnknownOutcome)])
    for one in tries:
        if isinstance(one.end, NeedsPerson):
            log.error("payout needs a person", extra={"payout": one.payout.id, "why": str(one.end)})
        elif isinstance(one.end, StripeRefused):
            log.warning("payout refused", extra={"payout": one.payout.id, "code": one.end.code})


def _outcome(ctx: Context, leg: Leg, one: Try) -> Transfer | BankPayout | StripeRefused:
    if ctx.now() - one.attempt.first_sent_at > KEY_WINDOW:
        if (there := _looked_up(ctx, leg, one)) is not None:
            return there
        attempts.replace(ctx, leg, one)
    try:
        return leg.send(ctx.gateways.stripe, one.payout, one.attempt)
    except StripeRefused as no:
        # Stripe refuses a closed account before it checks the key: an earlier send may have paid.
        return _looked_up(ctx, leg, one) or no
    except StripeUnknownOutcome as unclear:
        # A stored 500 is always replayed, so that only Stripe's list shows the outcome.
        replayed = one.attempt.outcome == AttemptOutcome.UNKNOWN
        if not replayed and not isinstance(unclear, StripeKeyReused):
            raise
        if (there := _looked_up(ctx, leg, one)) is not None:
            return there
        sent_for = ctx.now() - one.attempt.first_sent_at
        if not isinstance(unclear, StripeReplayedError) or sent_for < SERVER_ERROR_STANDS:
            raise
        # Its key is tied to a 5xx that had no effect: only another one can still pay.
        attempts.replace(ctx, leg, one)
        return _outcome(ctx, leg, one)


def _looked_up(ctx: Context, leg: Leg, one: Try) -> Transfer | BankPayout | None:
    try:
        return leg.look_up(ctx.gateways.stripe, one.payout, one.attempt)
    except StripeRefused as no:
        # It is the lookup that was refused, not the payout.
        raise NeedsPerson(f"payout {one.payout.id}: Stripe does not show it: {no}") from no
