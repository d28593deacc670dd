"""The job that relays a webhook to a target until the target accepts it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.platform.gateways.hooks import HookUnavailable
from app.platform.webhooks.models import Received
from app.switchyard.context import Context
from app.switchyard.errors import NonRetriable
from app.switchyard.job import JobPayload, job

JOB = "deliver-webhook"
BATCH = 2000
"""How many webhooks are deleted in one transaction, so that SQLite's lock is held only briefly."""
DELIVERY_GAPS = (10.0, 60.0, 600.0, 3600.0)
"""In seconds. A target may be unavailable for an hour before its webhook is a dead letter."""


class Delivery(JobPayload):
    """A stored webhook, and its target."""

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
    """Send a webhook under its own id, by which the target recognizes a repetition."""
    with ctx.transaction() as own:
        event = own.get(Received, event_id)
    if event is None:
        raise NonRetriable(f"webhook {event_id} is no longer kept")
    to = ctx.gateways.targets.get(target)
    if to is None:
        # Retried: during the roll-out of a new target, old processes do not know it yet.
        raise HookUnavailable(f"WEBHOOK_TARGETS has no {target!r}")
    headers = {"Content-Type": event.content_type, "webhook-source": event.source}
    to.send(event.body, headers, event.id, ctx.now())
    return {"bytes": len(event.body)}


def prune_webhooks(tx: Session, before: datetime, _after: str) -> tuple[int, str | None]:
    """Delete the next old webhooks, which contain personal data. If one comes again, no target gets
    it twice, since its runs are keyed by its id."""
    old = select(Received.id).where(Received.received_at < before)
    some = old.order_by(Received.received_at).limit(BATCH)
    gone = tx.connection().execute(delete(Received).where(Received.id.in_(some))).rowcount
    return gone, "" if gone == BATCH else None
