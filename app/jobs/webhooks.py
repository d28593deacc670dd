"""Acting on Stripe's events."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from app.jobs.catalogue import JobPayload, job
from app.jobs.context import Context
from app.payouts import inbox


class ReceivedEvent(JobPayload):
    """An event in the inbox."""

    event_id: str = Field(min_length=1, max_length=100)


def _event_key(payload: ReceivedEvent) -> str:
    return payload.event_id


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
