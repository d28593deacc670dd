"""POST /api/webhooks/stripe: verified, kept once, and left to jobs."""

from __future__ import annotations

from flask import Blueprint, request
from werkzeug.wrappers import Response

from app.platform.config import settings_of
from app.platform.gateways.hook_settings import STRIPE
from app.platform.gateways.stripe import verify_webhook
from app.platform.payouts import inbox
from app.platform.webhooks.inbox import posted, relay
from app.switchyard.dispatch import dispatch
from app.switchyard.http import problem
from app.switchyard.runtime import Runtime


def blueprint(made: Runtime) -> Blueprint:
    """Stripe's endpoint."""
    pages = Blueprint("payouts", __name__)

    @pages.post("/api/webhooks/stripe")
    def take() -> Response | dict[str, bool]:
        secret = settings_of(made).stripe_webhook_secret
        if secret is None:
            return problem(503, "Webhooks are off", "STRIPE_WEBHOOK_SECRET is not set")
        body, now = posted(), made.store.clock()
        signature = request.headers.get("Stripe-Signature", "")
        event = verify_webhook(body, signature, secret.get_secret_value(), now)
        with made.db.session() as session:
            live = made.engine.gateways.stripe.live
            new, acted_on = inbox.receive(session, event, now, live=live)
            if acted_on:
                dispatch("handle-stripe-event", {"eventId": event.id}, session=session)
            if new and any(to.wants(STRIPE) for to in settings_of(made).webhook_targets.values()):
                relay(session, STRIPE, event.id, body)
        return {"received": True, "new": new}

    return pages
