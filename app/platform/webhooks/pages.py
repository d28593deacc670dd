"""POST /api/webhooks/…: verified, kept once, and left to jobs."""

from __future__ import annotations

from flask import Blueprint, request
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from app.platform.gateways.stripe import verify_webhook
from app.platform.payouts import inbox
from app.platform.webhooks.config import STRIPE
from app.platform.webhooks.inbox import keep, passed_on
from app.platform.webhooks.signatures import verified
from app.switchyard.dispatch import Item, dispatch, dispatch_many
from app.switchyard.runtime import Runtime
from app.switchyard.web.problems import problem

MAX_BYTES = 1024 * 1024
"""Providers' events are a few kilobytes."""


def blueprint(made: Runtime) -> Blueprint:
    """The webhook endpoints."""
    pages = Blueprint("webhooks", __name__)
    sources, targets = made.settings.sources, made.settings.targets

    def relay(session: Session, source: str, event: str | None, body: bytes, signed: str) -> bool:
        """Keep the webhook, and a run for each target that wants it; whether it was new."""
        headers = passed_on(request.headers, signed)
        id_, new = keep(session, source, event, body, headers, made.store.clock())
        if new:
            wanted = [name for name, target in targets.items() if target.wants(source)]
            payloads = [Item({"eventId": id_, "target": name}) for name in wanted]
            dispatch_many("deliver-webhook", payloads, session=session)
        return new

    @pages.post("/api/webhooks/stripe")
    def stripe() -> Response | dict[str, bool]:
        secret = made.settings.stripe_webhook_secret
        if secret is None:
            return problem(503, "Webhooks are off", "STRIPE_WEBHOOK_SECRET is not set")
        payload = _body()
        signature = request.headers.get("Stripe-Signature", "")
        now = made.store.clock()
        event = verify_webhook(payload, signature, secret.get_secret_value(), now)
        with made.db.session() as session:
            live = made.engine.gateways.stripe.live
            new, acted_on = inbox.receive(session, event, payload, now, live=live)
            if acted_on:
                dispatch("handle-stripe-event", {"eventId": event.id}, session=session)
            if new and any(target.wants(STRIPE) for target in targets.values()):
                relay(session, STRIPE, event.id, payload, "Stripe-Signature")
        return {"received": True, "new": new}

    @pages.post("/api/webhooks/<name>")
    def generic(name: str) -> Response | dict[str, bool]:
        known = sources.get(name)
        if known is None:
            return problem(404, "Unknown source", "WEBHOOK_SOURCES does not name it")
        body = _body()
        event = verified(known, request.headers, body, made.store.clock())
        with made.db.session() as session:
            new = relay(session, name, event, body, known[0].header)
        return {"received": True, "new": new}

    return pages


def _body() -> bytes:
    request.max_content_length = MAX_BYTES
    return request.get_data(cache=False)
