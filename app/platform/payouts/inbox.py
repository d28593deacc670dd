"""Stripe's events: each kept once by its id, and acted on by what Stripe says now.

They come twice, out of order and for three days (https://docs.stripe.com/webhooks), so what an
event says of its object is not looked at: the object is fetched again.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any
from zlib import crc32

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.platform.earnings.models import Creator
from app.platform.gateways.stripe import (
    BankPayout,
    StripeGateway,
    StripeRefused,
    Transfer,
    WebhookEvent,
)
from app.platform.ledger.postings import COUNTED
from app.platform.payouts import accounts, bank
from app.platform.payouts.models import StripeEvent, stripe_events
from app.switchyard.context import Context
from app.switchyard.db import INSERT
from app.switchyard.errors import NonRetriable, RetryAfter

log = logging.getLogger(__name__)

ACTS_ON = frozenset(
    {
        *("account.updated", "account.application.deauthorized", "transfer.reversed"),
        *("payout.paid", "payout.failed", "payout.canceled"),
    }
)
"""The types that change anything here; any other is kept and done with."""
OVERTAKEN_SPREAD = 10
"""Over how many seconds events of one object that met are spread."""


def receive(tx: Session, event: WebhookEvent, now: datetime, *, live: bool) -> tuple[bool, bool]:
    """Write the event, unless its id is known; whether it was written, and is to be acted on.

    A `live` platform is sent test mode's events of connected accounts too
    (https://docs.stripe.com/connect/webhooks), whose objects its key cannot see.
    """
    acts = event.type in ACTS_ON and not (live and event.test)
    connection = tx.connection()
    row = {
        "id": event.id,
        "type": event.type,
        "account": event.account,
        "object_id": event.object_id,
        "received_at": now,
        "handled_at": None if acts else now,
    }
    insert = INSERT[connection.dialect.name](stripe_events).values(row).on_conflict_do_nothing()
    new = connection.execute(insert, execution_options=COUNTED).rowcount == 1
    return new, new and acts


def handle(tx: Session, ctx: Context, event_id: str) -> dict[str, Any]:
    """Act on an event, as a step: its end is written through `tx`, which begins after the fetch.

    Raises NonRetriable where it is not known, RetryAfter where something else is being written of
    the same object: what was fetched here may be older.
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
        told: dict[str, Any] = {"error": f"not to be had from Stripe: {gone}"}
    else:
        told = _taken_over(tx, event, before, found, ctx.now())
    error = told.get("error")
    if error is not None:
        log.warning("event needs a person", extra={"event": event.id, "error": error})
    tx.execute(
        update(StripeEvent)
        .where(StripeEvent.id == event.id)
        .values(handled_at=ctx.now(), error=error)
    )
    return {"error": None, **result, **told}


def _handled(tx: Session, event: StripeEvent) -> int:
    """How many events of the same object were handled."""
    same = (StripeEvent.object_id == event.object_id, StripeEvent.handled_at.is_not(None))
    return tx.scalar(select(func.count()).where(*same)) or 0


def _fetched(
    stripe: StripeGateway, event: StripeEvent
) -> accounts.State | Transfer | BankPayout | None:
    """What Stripe says now of the event's object; None where it is of a kind nobody acts on."""
    if event.type == "account.application.deauthorized" and event.account is not None:
        return accounts.asked(stripe, event.account)
    if event.object_id is None:
        return None
    if event.type == "account.updated":
        return accounts.asked(stripe, event.object_id)
    if event.type.startswith("transfer."):
        return stripe.retrieve_transfer(event.object_id)
    if event.type.startswith("payout.") and event.account is not None:
        return stripe.retrieve_payout(event.account, event.object_id)
    return None


def _taken_over(
    tx: Session,
    event: StripeEvent,
    before: int,
    found: accounts.State | Transfer | BankPayout | None,
    now: datetime,
) -> dict[str, Any]:
    if isinstance(found, Transfer):
        return bank.reversed_at_stripe(tx, found, now)
    if isinstance(found, BankPayout):
        return bank.heard(tx, found, now)
    if found is None:
        return {}
    owner = Creator.stripe_account_id == (
        event.object_id if event.type == "account.updated" else event.account
    )
    # Locked, so that of two events at once the second sees that the first was handled.
    tx.execute(select(Creator.id).where(owner).with_for_update())
    if _handled(tx, event) != before:
        wait = timedelta(seconds=1 + crc32(event.id.encode()) % OVERTAKEN_SPREAD)
        raise RetryAfter(f"{event.object_id}: another event was handled meanwhile", wait)
    changed = tx.connection().execute(update(Creator).where(owner).values(**found._asdict()))
    return {"creators": changed.rowcount, **found._asdict()}
