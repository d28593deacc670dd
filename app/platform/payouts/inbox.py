"""Stripe's events, taken at /api/webhooks/stripe: each is handled by one run, by its id, and by
what Stripe says now.

They come twice, out of order and for three days (https://docs.stripe.com/webhooks), so what an
event says of its object is not looked at: the object is fetched again.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from flask import Blueprint, request
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from app.platform.config import settings_of
from app.platform.gateways.hooks import STRIPE
from app.platform.gateways.stripe_answers import StripeRefused
from app.platform.gateways.stripe_webhooks import StripeEvent, verify_webhook
from app.platform.payouts import accounts, bank
from app.platform.webhooks.pages import EventConflict, logged, posted, relay
from app.switchyard.context import Context
from app.switchyard.dispatch import dispatch
from app.switchyard.http import problem
from app.switchyard.runtime import Runtime

log = logging.getLogger(__name__)

ACTS_ON = frozenset(
    {
        *("account.updated", "account.application.deauthorized", "transfer.reversed"),
        *("payout.paid", "payout.failed", "payout.canceled"),
    }
)
"""The types that change anything here."""


def blueprint(runtime: Runtime) -> Blueprint:
    """Stripe's endpoint."""
    pages = Blueprint("payouts", __name__)
    pages.after_request(logged)

    @pages.post("/api/webhooks/stripe")
    def take() -> Response | dict[str, bool]:
        settings = settings_of(runtime)
        if settings.stripe_webhook_secret is None:
            return problem(503, "Webhooks are off", "STRIPE_WEBHOOK_SECRET is not set")
        body, secret = posted(), settings.stripe_webhook_secret.get_secret_value()
        signature = request.headers.get("Stripe-Signature", "")
        event = verify_webhook(body, signature, secret, runtime.store.clock())
        # A live platform is sent test mode's events of connected accounts too, whose objects its
        # key cannot see (https://docs.stripe.com/connect/webhooks).
        foreign = runtime.engine.gateways.stripe.live and not event.live
        with runtime.db.session() as session:
            if event.type in ACTS_ON and not foreign:
                dispatch("handle-stripe-event", event, session=session)
            if any(to.wants(STRIPE) for to in settings.webhook_targets.values()):
                # Sent again, an event differs in how many others wait to be delivered.
                with suppress(EventConflict):
                    relay(session, STRIPE, event.event_id, body)
        return {"received": True}

    return pages


def handle(tx: Session, ctx: Context, event: StripeEvent) -> dict[str, Any]:
    """Act on an event, as a step: its end is written through `tx`, which begins after the fetch.

    `error` is set where a person must look. Raises RetryAfter where something else is being written
    of the same object: what was fetched here may be older.
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
