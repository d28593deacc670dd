"""Stripe's events. Each is handled by one run, whose key is the event's id.

Stripe may send an event twice, out of order and for three days (https://docs.stripe.com/webhooks).
The object in an event may therefore be out of date, and is fetched again.
"""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy.orm import Session

from app.platform.gateways.stripe_answers import StripeRefused
from app.platform.gateways.stripe_webhooks import StripeEvent
from app.platform.payouts import accounts, bank
from app.switchyard.context import Context

log = logging.getLogger(__name__)

ACTS_ON = frozenset(
    {
        *("account.updated", "account.application.deauthorized", "transfer.reversed"),
        *("payout.paid", "payout.failed", "payout.canceled"),
    }
)
"""The types of events that have an effect here."""


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
        return bank.reversed_at_stripe(tx, stripe.retrieve_transfer(event.object_id), now)
    if event.type.startswith("payout.") and event.account is not None:
        return bank.heard(tx, stripe.retrieve_payout(event.account, event.object_id), now)
    return {}
