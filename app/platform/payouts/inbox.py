"""Stripe's events. Each is handled by one run, whose key is the event's id.

Stripe may send an event twice, out of order and for three days (https://docs.stripe.com/webhooks).
The object in an event may therefore be out of date, and is fetched again.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from app.platform.gateways.stripe_answers import BankPayout, StripeRefused, Transfer
from app.platform.gateways.stripe_webhooks import StripeEvent
from app.platform.ledger.models import Entry
from app.platform.ledger.postings import CONNECTED, EntryKind, post
from app.platform.payouts import accounts
from app.platform.payouts.attempts import apply
from app.platform.payouts.legs import BANK, TRANSFER, Change, at_the_bank, booked
from app.platform.payouts.models import Payout
from app.platform.payouts.models import PayoutStatus as S
from app.switchyard.context import Context
from app.switchyard.errors import RetryAfter

log = logging.getLogger(__name__)

ACTS_ON = frozenset(
    {
        *("account.updated", "account.application.deauthorized", "transfer.reversed"),
        *("payout.paid", "payout.failed", "payout.canceled"),
    }
)
"""The types of events that have an effect here."""
RECORDED_SOON = timedelta(seconds=15)


def handle(tx: Session, ctx: Context, event: StripeEvent) -> dict[str, Any]:
    """Act on an event, as a step. The result is written through `tx`, which begins after the fetch.

    `error` is set where a person must look. Raises RetryAfter where the same object is just being
    written elsewhere: what was fetched here may be older.
    """
    try:
        result = _acted(tx, ctx, event)
    except StripeRefused as gone:
        result = {"error": f"not to be had from Stripe: {gone}"}
    if result.get("error") is not None:
        log.warning(
            "event needs a person", extra={"event": event.event_id, "error": result["error"]}
        )
    named = {"eventId": event.event_id, "type": event.type, "objectId": event.object_id}
    return {"error": None, **named, **result}


def _acted(tx: Session, ctx: Context, event: StripeEvent) -> dict[str, Any]:
    stripe, now = ctx.gateways.stripe, ctx.now()
    if event.type == "account.application.deauthorized" and event.account is not None:
        return accounts.refresh(tx, ctx, event.account)
    if event.object_id is None:
        return {}
    if event.type == "account.updated":
        return accounts.refresh(tx, ctx, event.object_id)
    if event.type.startswith("transfer."):
        return reversed_at_stripe(tx, stripe.retrieve_transfer(event.object_id), now)
    if event.type.startswith("payout.") and event.account is not None:
        return heard(tx, stripe.retrieve_payout(event.account, event.object_id), now)
    return {}


def heard(tx: Session, bank: BankPayout, now: datetime) -> dict[str, Any]:
    """Apply Stripe's status of a bank payout. Raises RetryAfter while an attempt at it is open."""
    named = bank.metadata.get("payout_id", "")
    chosen = or_(Payout.bank_payout_id == bank.id, Payout.id == named)
    payout = tx.scalar(select(Payout).where(chosen).order_by(Payout.id).with_for_update())
    said = {"status": bank.status, "failureCode": bank.failure_code}
    if payout is None:
        return said | {"payoutId": None}
    if payout.status == S.PAYING:
        raise RetryAfter(f"payout {payout.id}: its bank payout is not recorded yet", RECORDED_SOON)
    change = None
    # Only the latest bank payout counts, and only once it is recorded.
    if bank.id == payout.bank_payout_id and payout.status in (S.IN_TRANSIT, S.PAID):
        change = at_the_bank(payout, bank, now)
    if change is not None:
        apply(tx, [(payout, change)], BANK, now)
    return said | {"payoutId": payout.id, "moved": change is not None}


def reversed_at_stripe(tx: Session, transfer: Transfer, now: datetime) -> dict[str, Any]:
    """Record how much of a transfer was reversed. `error` is set where a person must look.

    The reversed amount is the platform's cash again. Where the whole transfer was reversed before
    a bank payout, it returns to the creator's balance and the payout ends as reversed.
    """
    back = transfer.amount_reversed
    said: dict[str, Any] = {"amountReversed": back, "error": None}
    if not back:
        return said
    payout = tx.scalar(select(Payout).where(Payout.transfer_id == transfer.id).with_for_update())
    if payout is None:
        return said | {"error": "reversed, and not a transfer of the ledger's"}
    known = select(func.coalesce(func.sum(Entry.amount), 0)).where(
        Entry.kind == EntryKind.REVERSAL, Entry.credit == CONNECTED + payout.id
    )
    new = back - int(tx.scalar(known) or 0)
    if new > 0:
        post(tx, [booked(EntryKind.REVERSAL, f"{transfer.id}:{back}", payout, now, new)])
    said |= {"payoutId": payout.id}
    if payout.status == S.REVERSED:
        return said
    whole = back >= payout.amount
    if not whole or payout.status not in (S.TRANSFERRED, S.BANK_FAILED):
        part = "" if whole else f"{back} of {payout.amount} "
        return said | {"error": f"{part}reversed while {payout.status}: a person must look"}
    freed = booked(EntryKind.RELEASE, transfer.id, payout, now)
    apply(tx, [(payout, Change(S.REVERSED, "transfer_reversed", None, (freed,)))], TRANSFER, now)
    return said
