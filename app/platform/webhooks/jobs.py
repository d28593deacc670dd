"""Webhooks: acting on Stripe's events, and relaying any."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from app.platform.payouts import inbox
from app.platform.webhooks.deliver import deliver
from app.platform.webhooks.inbox import forget
from app.switchyard.context import Context
from app.switchyard.job import Empty, JobPayload, job

DELIVERY_GAPS = (10.0, 60.0, 600.0, 3600.0)
"""Seconds: a target may be away for an hour before its webhook is a dead letter."""


class ReceivedEvent(JobPayload):
    """An event in the inbox."""

    event_id: str = Field(min_length=1, max_length=100)


class Delivery(JobPayload):
    """A webhook that was kept, and who gets it."""

    event_id: str = Field(min_length=1, max_length=100)
    target: str = Field(min_length=1, max_length=40)


def _event_key(payload: ReceivedEvent) -> str:
    return payload.event_id


def _delivery_key(payload: Delivery) -> str:
    return f"{payload.event_id}:{payload.target}"


@job(
    "handle-stripe-event",
    event="stripe.event",
    payload=ReceivedEvent,
    queue="payouts",
    key=_event_key,
    concurrency=10,
)
def handle_stripe_event(ctx: Context, payload: ReceivedEvent) -> dict[str, Any]:
    """Act on one event, by what Stripe says of its object now."""
    return ctx.step.run("handle", inbox.handle, ctx, payload.event_id)


@job(
    "deliver-webhook",
    event="webhook.deliver",
    payload=Delivery,
    queue="webhooks",
    key=_delivery_key,
    gaps=DELIVERY_GAPS,
    concurrency=10,
)
def deliver_webhook(ctx: Context, payload: Delivery) -> dict[str, Any]:
    """Send one webhook on to one target; a failed run is a dead letter."""
    return ctx.step.run("deliver", deliver, ctx, payload.event_id, payload.target)


@job(
    "forget-webhooks",
    event="webhook.forget",
    payload=Empty,
    queue="webhooks",
    schedule="40 3 * * *",
    missed="last",  # it forgets all that is old
)
def forget_webhooks(ctx: Context, _payload: Empty) -> dict[str, int]:
    """Drop the bodies of old webhooks."""
    return {"forgotten": ctx.step.run("forget", forget, ctx.now())}
