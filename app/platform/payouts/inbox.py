"""Stripe's events: each handled by one run, by its id, and by what Stripe says now.

They come twice, out of order and for three days (https://docs.stripe.com/webhooks), so what an
event says of its object is not looked at: the object is fetched again.
"""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy.orm import Session

from app.platform.gateways.stripe_errors import StripeRefused
from app.platform.gateways.stripe_webhooks import StripeEvent
from app.platform.payouts import bank
from app.switchyard.context import Context

log = logging.getLogger(__name__)

ACTS_ON = frozenset({"transfer.reversed", "payout.paid", "payout.failed", "payout.canceled"})
"""The types that change anything here."""


def handle(tx: Session, ctx: Context, event: StripeEvent) -> dict[str, Any]:
    """Act on an event, as a step: its end is written through `tx`, which begins after the fetch.

    `error` is set where a person must look. Raises RetryAfter where a bank payout is just recorded.
    """
    stripe, id_, result = ctx.gateways.stripe, event.object_id, dict[str, Any]()
    try:
        if event.type == "transfer.reversed" and id_ is not None:
            result = bank.reversed_at_stripe(tx, stripe.retrieve_transfer(id_), ctx.now())
        elif event.account is not None and id_ is not None:
            result = bank.heard(tx, stripe.retrieve_payout(event.account, id_), ctx.now())
    except StripeRefused as gone:
        result["error"] = f"not to be had from Stripe: {gone}"
    if (error := result.get("error")) is not None:
        log.warning("event needs a person", extra={"event": event.event_id, "error": error})
    named = {"eventId": event.event_id, "type": event.type, "objectId": id_}
    return {"error": None, **named, **result}
