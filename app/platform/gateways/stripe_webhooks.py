"""Stripe's webhooks: how they are signed, and what of an event is used."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import Field

from app.platform.gateways.stripe_answers import StripeWebhookRefused
from app.switchyard.job import JobPayload
from app.switchyard.signed import Signature, is_mac

HEADER = "Stripe-Signature"
TOLERANCE_SECONDS = 300
"""How far a signed time may be off, either way. Stripe signs anew each time it tries again."""
_FORM = re.compile(r"t=([1-9][0-9]{0,10})((?:,(?!t=)[a-z0-9]+=[!-+\--~]*)+)")
_MAC = re.compile(r",v1=([0-9a-f]{64})(?![^,])")
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


def refused(why: str) -> StripeWebhookRefused:
    """The refusal of a webhook, which shows neither a secret nor the body."""
    return StripeWebhookRefused(f"{HEADER}: {why}")


def reader(secrets: str) -> Callable[[str], Signature | None]:
    """Read the header of a webhook that is signed with any of the comma-separated `secrets`.

    Stripe's endpoints for the platform's own events and for its connected accounts have one each
    (https://docs.stripe.com/connect/webhooks); https://docs.stripe.com/webhooks#verify-manually
    has the signature.
    """
    keys = [secret.strip().encode() for secret in secrets.split(",") if secret.strip()]

    def read(text: str) -> Signature | None:
        parts = _FORM.fullmatch(text)
        if parts is None:
            return None
        at, given = int(parts[1]), [bytes.fromhex(mac) for mac in _MAC.findall(parts[2])]
        fits = partial(is_mac, keys, given, prefix=f"{at}.".encode())
        return Signature(at - TOLERANCE_SECONDS, at + TOLERANCE_SECONDS, fits)

    return read


def read_event(body: bytes) -> StripeEvent:
    """The event in a verified body. Raises StripeWebhookRefused for one that is no event."""
    try:
        event = json.loads(body)
        return StripeEvent(
            event_id=event["id"],
            type=event["type"],
            account=_own(event.get("account")),
            object_id=_own(_of(_of(event, "data"), "object").get("id")),
            live=event.get("livemode") is not False,
        )
    except (KeyError, RecursionError, TypeError, ValueError) as malformed:
        raise StripeWebhookRefused(
            f"not an event of Stripe's ({type(malformed).__name__})"
        ) from None


def _of(given: dict[str, Any], name: str) -> dict[str, Any]:
    """What is there under `name`: a thin event (https://docs.stripe.com/event-destinations) has
    neither data nor an object."""
    there = given.get(name)
    return there if isinstance(there, dict) else {}


def _own(id_: object) -> str | None:
    """An id of Stripe's making; others, such as a coupon's, are the platform's own choice."""
    return id_ if isinstance(id_, str) and re.fullmatch(_NAME, id_) else None
