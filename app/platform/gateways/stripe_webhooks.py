"""Stripe's webhooks: their signature, and the fields of an event that are used."""

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
"""How far a signed time may be off, either way. Stripe signs each retry again."""
_FORM = re.compile(r"t=([1-9][0-9]{0,10})((?:,(?!t=)[a-z0-9]+=[!-+\--~]*)+)")
_MAC = re.compile(r",v1=([0-9a-f]{64})(?![^,])")
_NAME = r"^[A-Za-z0-9_.]{1,100}$"


class StripeEvent(JobPayload):
    """A verified event, without its object, which may be out of date and contains personal data."""

    event_id: str = Field(pattern=_NAME)
    type: str
    account: str | None = Field(default=None, pattern=_NAME)
    """The connected account that it concerns, or None for the platform."""
    object_id: str | None = Field(default=None, pattern=_NAME)
    """The object that it is about, if Stripe generated the object's id."""
    live: bool = True
    """Whether it is from live mode."""


def reader(secrets: str) -> Callable[[str], Signature | None]:
    """A reader for the header of a webhook signed with any of the comma-separated `secrets`.

    The endpoints for the platform and for connected accounts have a secret each. The signature's
    format is at https://docs.stripe.com/webhooks#verify-manually.
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
    """The event in a verified body. Raises StripeWebhookRefused for anything else.

    A thin event (https://docs.stripe.com/event-destinations) only names its object and the account.
    """
    try:
        event = json.loads(body.decode("utf-8-sig"))
        about = _of(_of(event, "data"), "object") or _of(event, "related_object")
        account = event.get("account") or event.get("context")
        if isinstance(account, str):  # a context is a path of accounts
            account = account.rpartition("/")[2]
        return StripeEvent(
            event_id=event["id"],
            type=event["type"].removeprefix("v1."),
            account=_own(account),
            object_id=_own(about.get("id")),
            live=event.get("livemode") is not False,
        )
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as malformed:
        raise StripeWebhookRefused(
            f"not an event of Stripe's ({type(malformed).__name__})"
        ) from None


def _of(given: dict[str, Any], name: str) -> dict[str, Any]:
    """The object under `name`, or {}."""
    there = given.get(name)
    return there if isinstance(there, dict) else {}


def _own(id_: object) -> str | None:
    """An id if Stripe may have generated it. The platform chooses others, such as a coupon's."""
    return id_ if isinstance(id_, str) and re.fullmatch(_NAME, id_) else None
