"""One webhook to one target, as a step of a run: sent until the target says that it has it."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy.orm import Session

from app.platform.gateways.guard import AddressRefused
from app.platform.gateways.hooks import HookUnavailable
from app.platform.webhooks.inbox import Received
from app.switchyard.context import Context
from app.switchyard.job_errors import NonRetriable


def deliver(_tx: Session, ctx: Context, event_id: str, target: str) -> dict[str, Any]:
    """Send the webhook under its own id, by which the target tells a repetition.

    Raises HookRefused or HookUnavailable where the target did not take it, and NonRetriable where
    it cannot be sent.
    """
    with ctx.transaction() as own:
        event = own.get(Received, event_id)
    if event is None or event.body is None:
        raise NonRetriable(f"the body of {event_id} is no longer kept")
    to = ctx.gateways.targets.get(target)
    if to is None:
        # Tried again: while a new target is rolled out, old processes do not know it yet.
        raise HookUnavailable(f"WEBHOOK_TARGETS has no {target!r}")
    headers = {**json.loads(event.headers), "webhook-source": event.source}
    try:
        to.sender.send(to.url, event.body, headers, event.id, ctx.now())
    except AddressRefused as refused:
        raise NonRetriable(f"{target}: {refused}") from None
    return {"bytes": len(event.body)}
