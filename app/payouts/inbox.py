"""Stripe's events: each kept once by its id, and acted on by what Stripe says now.

They come twice, out of order and for three days (https://docs.stripe.com/webhooks), so what an
event says of its object is not looked at: the object is fetched again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast
from zlib import crc32

from sqlalchemy import Index, String, Table, Text, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db import Base
from app.earnings.models import Creator
from app.gateways.stripe import StripeGateway, StripeRefused, WebhookEvent
from app.jobs.context import Context
from app.jobs.errors import NonRetriable, RetryAfter
from app.ledger.postings import COUNTED, INSERT

log = logging.getLogger(__name__)

REVERSED = "reversed: a person must look"
OVERTAKEN_SPREAD = 10
"""Over how many seconds events of one object that met are spread."""


class StripeEvent(Base):
    """An event that was verified. Times UTC."""

    __tablename__ = "stripe_events"

    id: Mapped[str] = mapped_column(String(100), primary_key=True)
    type: Mapped[str] = mapped_column(String(100))
    account: Mapped[str | None] = mapped_column(String(100))
    """The connected account it happened on; None: the platform."""
    object_id: Mapped[str | None] = mapped_column(String(100))
    payload_sha256: Mapped[str] = mapped_column(String(64))
    """Of the body as it came; the body itself, with people's data in it, is not kept."""
    received_at: Mapped[datetime]
    handled_at: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)
    """What a person must look at."""

    __table_args__ = (Index("ix_stripe_events_object", "object_id", "handled_at"),)


stripe_events = cast(Table, StripeEvent.__table__)


def receive(tx: Session, event: WebhookEvent, payload: bytes, now: datetime) -> bool:
    """Write the event, unless its id is known; whether it was written."""
    connection = tx.connection()
    row = {
        "id": event.id,
        "type": event.type,
        "account": event.account,
        "object_id": event.object_id,
        "payload_sha256": hashlib.sha256(payload).hexdigest(),
        "received_at": now,
    }
    insert = INSERT[connection.dialect.name](stripe_events).values(row).on_conflict_do_nothing()
    return connection.execute(insert, execution_options=COUNTED).rowcount == 1


@dataclass(frozen=True, slots=True)
class _Found:
    """What Stripe says now of an event's object: for the result, for a person, for the creator."""

    told: Mapping[str, Any]
    error: str | None = None
    gates: Mapping[str, Any] = field(default_factory=dict)


def handle(tx: Session, ctx: Context, event_id: str) -> dict[str, Any]:
    """Act on an event, as a step: its end is written through `tx`, which begins after the fetch.

    Raises NonRetriable where it is not known, RetryAfter where another event of the same object
    was handled meanwhile: what was fetched here may be older than what that one wrote.
    """
    with ctx.transaction() as own:
        event = own.get(StripeEvent, event_id)
        if event is None:
            raise NonRetriable(f"no event {event_id!r} was received")
        before = _handled(own, event)
    result: dict[str, Any] = {"eventId": event.id, "type": event.type, "objectId": event.object_id}
    if event.handled_at is not None:
        return result | {"error": event.error}
    try:
        found = _fetched(ctx.gateways.stripe, event)
    except StripeRefused as gone:
        found = _Found({}, f"not to be had from Stripe: {gone}")
    if found.gates:
        owner = Creator.stripe_account_id == event.object_id
        # Locked, so that of two events at once the second sees that the first was handled.
        tx.execute(select(Creator.id).where(owner).with_for_update())
        if _handled(tx, event) != before:
            wait = timedelta(seconds=1 + crc32(event.id.encode()) % OVERTAKEN_SPREAD)
            raise RetryAfter(f"{event.object_id}: another event was handled meanwhile", wait)
        changed = tx.connection().execute(update(Creator).where(owner).values(**found.gates))
        result["creators"] = changed.rowcount
    if found.error is not None:
        log.warning("event needs a person", extra={"event": event.id, "error": found.error})
    tx.execute(
        update(StripeEvent)
        .where(StripeEvent.id == event.id)
        .values(handled_at=ctx.now(), error=found.error)
    )
    return {**result, **found.told, "error": found.error}


def _handled(tx: Session, event: StripeEvent) -> int:
    """How many events of the same object were handled."""
    same = (StripeEvent.object_id == event.object_id, StripeEvent.handled_at.is_not(None))
    return tx.scalar(select(func.count()).where(*same)) or 0


def _fetched(stripe: StripeGateway, event: StripeEvent) -> _Found:
    if event.object_id is None:
        return _Found({})
    if event.type == "account.updated":
        account = stripe.retrieve_account(event.object_id)
        gates = {
            "payouts_enabled": account.payouts_enabled,
            "transfers_active": account.transfers == "active",
            "disabled_reason": account.disabled_reason and account.disabled_reason[:100],
        }
        return _Found({"payable": account.payable}, gates=gates)
    if event.type == "transfer.reversed":
        transfer = stripe.retrieve_transfer(event.object_id)
        back = transfer.amount_reversed_minor
        return _Found({"amountReversed": back}, REVERSED if back else None)
    if event.type.startswith("payout.") and event.account is not None:
        payout = stripe.retrieve_payout(event.account, event.object_id)
        return _Found({"status": payout.status, "failureCode": payout.failure_code})
    return _Found({})
