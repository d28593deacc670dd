"""Serves POST /api/webhooks/SOURCE: verifies webhooks, stores each once, and leaves it to jobs."""

from __future__ import annotations

import hashlib
import logging
import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from flask import Blueprint, request
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from app.platform.config import settings_of
from app.platform.db import COUNTED, insert
from app.platform.gateways import stripe_webhooks
from app.platform.gateways.hooks import STRIPE
from app.platform.gateways.stripe_answers import StripeWebhookRefused
from app.platform.payouts.inbox import ACTS_ON
from app.platform.webhooks.jobs import JOB
from app.platform.webhooks.models import Received
from app.switchyard import runtime
from app.switchyard.dispatch import Item, dispatch, dispatch_many
from app.switchyard.errors import BadInput, Unauthorized
from app.switchyard.http import problem
from app.switchyard.runtime import Runtime
from app.switchyard.signed import Signature, is_mac, signed_body

MAX_BYTES = 1024 * 1024
"""Events are a few kilobytes."""
log = logging.getLogger(__name__)
TOLERANCE_SECONDS = 300
_NAME = re.compile(r"[!-~]{1,200}")
_STAMP = re.compile(r"[1-9][0-9]{0,10}")
_FORM = re.compile(r"v\w+,[!-~]+( v\w+,[!-~]+)*")


class EventConflict(BadInput, status=409, title="Event known with another body"):
    """The source's name for the event is known with another body."""


class SignatureRefused(Unauthorized, title="Signature refused"):
    """The webhook is not from its source, or more than five minutes off. Nothing was stored."""


def blueprint(parts: Runtime) -> Blueprint:
    """The blueprint with the endpoints for Stripe and for WEBHOOK_SOURCES."""
    pages = Blueprint("webhooks", __name__)
    pages.after_request(_logged)

    @pages.post("/api/webhooks/stripe")
    def take_stripe() -> Response | dict[str, bool]:
        settings = settings_of(parts)
        if settings.stripe_webhook_secret is None:
            return problem(503, "Webhooks are off", "STRIPE_WEBHOOK_SECRET is not set")
        body = signed_body(
            *(request, stripe_webhooks.HEADER),
            stripe_webhooks.reader(settings.stripe_webhook_secret.get_secret_value()),
            now=parts.store.clock().timestamp(),
            limit=MAX_BYTES,
            refused=StripeWebhookRefused,
        )
        event = stripe_webhooks.read_event(body)
        # A live platform also gets connected accounts' test mode events, whose objects its key
        # cannot see (https://docs.stripe.com/connect/webhooks).
        foreign = parts.engine.gateways.stripe.live and not event.live
        with parts.db.session() as session:
            if event.type in ACTS_ON and not foreign:
                dispatch("handle-stripe-event", event, session=session)
            if any(to.wants(STRIPE) for to in settings.webhook_targets.values()):
                # A resent event may differ: it contains the number of undelivered webhooks.
                with suppress(EventConflict):
                    _relay(session, STRIPE, event.event_id, body)
        return {"received": True}

    @pages.post("/api/webhooks/<source>")
    def take(source: str) -> Response | dict[str, bool]:
        secrets = settings_of(parts).webhook_sources.get(source)
        if secrets is None:
            return problem(404, "Unknown source", "WEBHOOK_SOURCES does not name it")
        named = "svix" if "svix-id" in request.headers else "webhook"
        event = request.headers.get(f"{named}-id", "")
        body = signed_body(
            *(request, f"{named}-signature"),
            _reader(secrets, event, request.headers.get(f"{named}-timestamp", "")),
            now=parts.store.clock().timestamp(),
            limit=MAX_BYTES,
            refused=SignatureRefused,
        )
        if not _NAME.fullmatch(event):
            raise BadInput(f"{named}-id: must be 1 to 200 printable characters")
        try:
            body.decode()  # needed to sign it again for each target
        except UnicodeDecodeError:
            raise BadInput("the body must be UTF-8") from None
        with parts.db.session() as session:
            new = _relay(session, source, event, body)
        return {"received": True, "new": new}

    return pages


def _reader(
    secrets: Iterable[SecretStr], name: str, stamp: str
) -> Callable[[str], Signature | None]:
    """A reader for the signature header of an event with this name and time, which any of `secrets`
    may have signed, by Standard Webhooks (https://www.standardwebhooks.com)."""
    keys = [b64decode(one.get_secret_value().removeprefix("whsec_")) for one in secrets]

    def read(text: str) -> Signature | None:
        if not (name.isascii() and _STAMP.fullmatch(stamp) and _FORM.fullmatch(text)):
            return None
        given = []
        for mac in re.findall(r"(?:^| )v1,([^ ]+)", text):
            with suppress(NotBase64):
                given.append(b64decode(mac, validate=True))
        fits = partial(is_mac, keys, given, prefix=f"{name}.{stamp}.".encode())
        return Signature(int(stamp) - TOLERANCE_SECONDS, int(stamp) + TOLERANCE_SECONDS, fits)

    return read


def _logged(answer: Response) -> Response:
    """The answer. A refusal is logged with its reason."""
    if answer.status_code >= 400:
        why = (answer.get_json(silent=True) or {}).get("detail")
        log.warning("webhook refused", extra={"source": request.path.split("/")[3], "why": why})
    return answer


def _relay(tx: Session, source: str, event: str, body: bytes) -> bool:
    """Store the request's verified webhook, and dispatch a run for each target that wants it.

    Returns whether it was new. Raises EventConflict where its name is known with another body.
    """
    app_runtime = runtime.current()
    sha256 = hashlib.sha256(body).hexdigest()
    id_ = f"{source}_{hashlib.sha256(event.encode()).hexdigest()[:32]}"
    said = request.headers.get("Content-Type", "")
    content_type = said if said.isascii() and 0 < len(said) <= 200 else "application/octet-stream"
    row = {
        "id": id_,
        "source": source,
        "event": event,
        "sha256": sha256,
        "body": body,
        "content_type": content_type,
        "received_at": app_runtime.store.clock(),
    }
    new = insert(tx, Received).values(row).on_conflict_do_nothing()
    if tx.connection().execute(new, execution_options=COUNTED).rowcount == 0:
        if tx.scalar(select(Received.sha256).where(Received.id == id_)) != sha256:
            raise EventConflict(f"{source}: the event's name is known with another body")
        return False
    targets = settings_of(app_runtime).webhook_targets.items()
    items = [Item({"eventId": id_, "target": name}) for name, to in targets if to.wants(source)]
    dispatch_many(JOB, items, session=tx)
    return True
