"""Stripe's webhooks, told from forged and old ones by Stripe's own library."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

from pydantic import Field

from app.platform.gateways.stripe_answers import StripeWebhookRefused
from app.switchyard.job import JobPayload

TOLERANCE_SECONDS = 300
"""How far a signed time may be off, either way; Stripe signs anew each time it tries again."""
_NAME = r"^[A-Za-z0-9_.]{1,100}$"


class StripeEvent(JobPayload):
    """A verified event. What it says of its object is left out: it may be out of date by now, and
    has people's data in it."""

    event_id: str = Field(pattern=_NAME)
    type: str
    account: str | None = Field(default=None, pattern=_NAME)
    """The connected account it happened on; None: the platform."""
    object_id: str | None = Field(default=None, pattern=_NAME)
    """The object it is about, where its id is of Stripe's own making."""
    live: bool = True
    """Whether it is of live mode."""


def verify_webhook(payload: bytes, signature: str, secrets: str, now: datetime) -> StripeEvent:
    """The event in the body `payload` with the `Stripe-Signature` header `signature`.

    By any of the comma-separated `secrets`: Stripe's endpoint for the platform's own events and the
    one for its connected accounts' have one each (https://docs.stripe.com/connect/webhooks). Raises
    StripeWebhookRefused, whose message holds neither a secret nor the body.
    """
    import stripe  # most processes get no webhook

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
    raise StripeWebhookRefused(f"Stripe-Signature: {why}")


def _signed_at(signature: str) -> int:
    """The seconds since 1970 that the library took for signed: the first ones."""
    items = (item.partition("=") for item in signature.split(","))
    return next(int(value) for name, _, value in items if name == "t")


def _read(event: dict[str, Any]) -> StripeEvent:
    """Raises KeyError, TypeError and ValueError for what is no event."""
    return StripeEvent(
        event_id=event["id"],
        type=event["type"],
        account=_own(event.get("account")),
        object_id=_own(_of(_of(event, "data"), "object").get("id")),
        live=event.get("livemode") is not False,
    )


def _of(given: dict[str, Any], name: str) -> dict[str, Any]:
    """What is there under `name`: a thin event (https://docs.stripe.com/event-destinations) has
    neither data nor an object."""
    there = given.get(name)
    return there if isinstance(there, dict) else {}


def _own(id_: object) -> str | None:
    """An id of Stripe's making; others, such as a coupon's, are the platform's own choice."""
    return id_ if isinstance(id_, str) and re.fullmatch(_NAME, id_) else None
