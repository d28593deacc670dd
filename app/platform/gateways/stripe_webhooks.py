"""Stripe's webhooks, told from forged, old and malformed ones by Stripe's own library."""

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import stripe

from app.platform.gateways.stripe_errors import StripeWebhookRefused

TOLERANCE_SECONDS = 300
"""How old a signature may be; Stripe signs anew each time it tries again."""
_NAME = re.compile(r"[A-Za-z0-9_.]{1,100}")


@dataclass(frozen=True)
class WebhookEvent:
    """A verified event. What it says of its object is left out: it may be out of date by now."""

    id: str
    type: str
    account: str | None
    """The connected account it happened on; None: the platform."""
    object_id: str | None
    """The object it is about; a few kinds, such as a balance, have no id."""
    created: datetime
    """UTC, whole seconds."""
    test: bool = False
    """Whether it is of test mode."""


def verify_webhook(payload: bytes, signature: str, secrets: str, now: datetime) -> WebhookEvent:
    """The event in the body `payload` with the `Stripe-Signature` header `signature`.

    By any of the comma-separated `secrets`: Stripe's endpoint for the platform's own events and the
    one for its connected accounts' have one each (https://docs.stripe.com/connect/webhooks). Raises
    StripeWebhookRefused, whose message holds neither a secret nor the body.
    """
    # The library goes by the machine's clock. Zero would mean no limit to it.
    tolerance = TOLERANCE_SECONDS + int(time.time() - now.timestamp()) or -1
    refused = StripeWebhookRefused("Stripe-Signature: there is no secret to check it with")
    for secret in filter(None, map(str.strip, secrets.split(","))):
        try:
            return _read(stripe.Webhook.construct_event(payload, signature, secret, tolerance))
        except stripe.SignatureVerificationError as forged:
            refused = StripeWebhookRefused(f"Stripe-Signature: {_reason(forged)}")
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as malformed:
            kind = type(malformed).__name__
            raise StripeWebhookRefused(f"not an event of Stripe's ({kind})") from None
    raise refused


def _read(event: stripe.Event) -> WebhookEvent:
    account = getattr(event, "account", None)
    about = getattr(event.data.object, "id", None)
    for name in (event.id, event.type, *filter(None, (account, about))):
        if not _NAME.fullmatch(name):
            raise ValueError("not a name")
    created = datetime.fromtimestamp(event.created, UTC)
    test = getattr(event, "livemode", None) is False
    return WebhookEvent(event.id, event.type, account or None, about or None, created, test)


def _reason(forged: stripe.SignatureVerificationError) -> str:
    """The library's reason up to its first full stop; it may go on with advice to programmers."""
    return str(forged).partition(".")[0]
