"""Stripe's webhooks, told from forged and old ones by Stripe's own library."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import stripe

from app.platform.gateways.stripe_errors import StripeWebhookRefused

log = logging.getLogger(__name__)

TOLERANCE_SECONDS = 300
"""How far a signed time may be off, either way; Stripe signs anew each time it tries again."""
_NAME = re.compile(r"[A-Za-z0-9_.]{1,100}")


@dataclass(frozen=True)
class WebhookEvent:
    """A verified event. What it says of its object is left out: it may be out of date by now."""

    id: str
    type: str
    account: str | None
    """The connected account it happened on; None: the platform."""
    object_id: str | None
    """The object it is about, where its id is of Stripe's own making."""
    test: bool = False
    """Whether it is of test mode."""


def verify_webhook(payload: bytes, signature: str, secrets: str, now: datetime) -> WebhookEvent:
    """The event in the body `payload` with the `Stripe-Signature` header `signature`.

    By any of the comma-separated `secrets`: Stripe's endpoint for the platform's own events and the
    one for its connected accounts' have one each (https://docs.stripe.com/connect/webhooks). Raises
    StripeWebhookRefused, whose message holds neither a secret nor the body.
    """
    why = "there is no secret to check it with"
    for secret in filter(None, map(str.strip, secrets.split(","))):
        try:
            stripe.WebhookSignature.verify_header(payload, signature, secret)
            if abs(now.timestamp() - _signed_at(signature)) > TOLERANCE_SECONDS:
                why = "its time is too far off"
                break
            return _read(json.loads(payload))
        except stripe.SignatureVerificationError as forged:
            # Up to its first full stop; it may go on with advice to programmers.
            why = str(forged).partition(".")[0]
        except (KeyError, OverflowError, RecursionError, TypeError, ValueError) as malformed:
            why = f"not an event of Stripe's ({type(malformed).__name__})"
            break
    log.warning("webhook refused", extra={"source": "stripe", "why": why})
    raise StripeWebhookRefused(f"Stripe-Signature: {why}")


def _signed_at(signature: str) -> int:
    """The seconds since 1970 that the library took for signed: the first ones."""
    items = (item.partition("=") for item in signature.split(","))
    return next(int(value) for name, _, value in items if name == "t")


def _read(event: dict[str, Any]) -> WebhookEvent:
    """Raises KeyError, TypeError and ValueError for what is no event."""
    id_, kind = _plain(event["id"]), _plain(event["type"])
    if id_ is None or kind is None:
        raise ValueError("not a name")
    about = event["data"]["object"]
    object_id = _plain(about.get("id")) if isinstance(about, dict) else None
    test = event.get("livemode") is False
    return WebhookEvent(id_, kind, _plain(event.get("account")), object_id, test)


def _plain(name: object) -> str | None:
    """A name that Stripe made; others, such as a coupon's, are the platform's own choice."""
    return name if isinstance(name, str) and _NAME.fullmatch(name) else None
