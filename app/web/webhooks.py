"""POST /api/webhooks/stripe: verified, kept once, and left to a job."""

from __future__ import annotations

from flask import Blueprint, request
from werkzeug.wrappers import Response

from app.dispatch import dispatch
from app.gateways.stripe import verify_webhook
from app.payouts import inbox
from app.runtime import Runtime
from app.web.problems import problem

MAX_BYTES = 1024 * 1024
"""Stripe's events are a few kilobytes."""


def blueprint(made: Runtime) -> Blueprint:
    """The webhook endpoint."""
    pages = Blueprint("webhooks", __name__)

    @pages.post("/api/webhooks/stripe")
    def stripe() -> Response | dict[str, bool]:
        secret = made.settings.stripe_webhook_secret
        if secret is None:
            return problem(503, "Webhooks are off", "STRIPE_WEBHOOK_SECRET is not set")
        request.max_content_length = MAX_BYTES
        payload = request.get_data(cache=False)
        signature = request.headers.get("Stripe-Signature", "")
        now = made.store.clock()
        event = verify_webhook(payload, signature, secret.get_secret_value(), now)
        with made.db.session() as session:
            new, acted_on = inbox.receive(session, event, payload, now)
            if acted_on:
                dispatch("handle-stripe-event", {"eventId": event.id}, session=session)
        return {"received": True, "new": new}

    return pages
