"""POST /api/webhooks/stripe: verified, and left to jobs."""

from __future__ import annotations

from contextlib import suppress

from flask import Blueprint, request
from werkzeug.wrappers import Response

from app.platform.config import settings_of
from app.platform.gateways.hooks import STRIPE
from app.platform.gateways.stripe_webhooks import verify_webhook
from app.platform.payouts.inbox import ACTS_ON
from app.platform.webhooks.pages import EventConflict, logged, posted, relay
from app.switchyard.dispatch import dispatch
from app.switchyard.http import problem
from app.switchyard.runtime import Runtime


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
