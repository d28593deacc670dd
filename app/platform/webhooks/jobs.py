"""Webhooks sent on: each to each target, until the target says that it has it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from pydantic import Field
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.platform.gateways.hooks import HookUnavailable
from app.platform.webhooks.models import Received
from app.switchyard.context import Context
from app.switchyard.errors import NonRetriable
from app.switchyard.job import Empty, JobPayload, job

JOB = "deliver-webhook"
KEPT = timedelta(days=30)
"""How long a webhook, with people's data in it, is kept, and can be delivered."""
BATCH = 2000
"""Webhooks forgotten in one transaction: SQLite's lock is not held for long."""
DELIVERY_GAPS = (10.0, 60.0, 600.0, 3600.0)
"""Seconds: a target may be unavailable for an hour before its webhook is a dead letter."""


class Delivery(JobPayload):
    """A webhook that was kept, and who gets it."""

    event_id: str = Field(min_length=1, max_length=100)
    target: str = Field(min_length=1, max_length=40)


@job(
    JOB,
    event="webhook.deliver",
    payload=Delivery,
    queue="webhooks",
    key=lambda payload: f"{payload.event_id}:{payload.target}",
    gaps=DELIVERY_GAPS,
    concurrency=10,
)
def deliver_webhook(ctx: Context, payload: Delivery) -> dict[str, Any]:
    """Send one webhook on to one target; a failed run is a dead letter."""
    return ctx.step.run("deliver", _deliver, ctx, payload.event_id, payload.target)


def _deliver(_tx: Session, ctx: Context, event_id: str, target: str) -> dict[str, Any]:
    """Send it under its own id, by which the target tells a repetition."""
    with ctx.transaction() as own:
        event = own.get(Received, event_id)
    if event is None:
        raise NonRetriable(f"webhook {event_id} is no longer kept")
    to = ctx.gateways.targets.get(target)
    if to is None:
        # Tried again: while a new target is rolled out, old processes do not know it yet.
        raise HookUnavailable(f"WEBHOOK_TARGETS has no {target!r}")
    headers = {"Content-Type": event.content_type, "webhook-source": event.source}
    to.send(event.body, headers, event.id, ctx.now())
    return {"bytes": len(event.body)}


@job(
    "forget-webhooks",
    event="webhook.forget",
    payload=Empty,
    queue="webhooks",
    schedule="40 3 * * *",
    missed="last",  # it forgets all that is old
)
def forget_webhooks(ctx: Context, _payload: Empty) -> dict[str, int]:
    """Delete old webhooks."""
    forgotten, before = 0, ctx.created_at - KEPT
    while gone := ctx.step.run("forget", _forget, before):
        forgotten += gone
    return {"forgotten": forgotten}


def _forget(tx: Session, before: datetime) -> int:
    """One that comes again is delivered to no target twice: its runs are keyed by its id."""
    old = select(Received.id).where(Received.received_at < before)
    some = old.order_by(Received.received_at).limit(BATCH)
    return tx.connection().execute(delete(Received).where(Received.id.in_(some))).rowcount
