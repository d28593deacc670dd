"""Webhooks that are relayed: each kept once, by its source's name for it, with its deliveries."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.platform.config import settings_of
from app.platform.ledger.postings import COUNTED
from app.platform.webhooks.models import Received, received
from app.switchyard import runtime
from app.switchyard.db import INSERT
from app.switchyard.dispatch import Item, dispatch_many
from app.switchyard.errors import BadInput

JOB = "deliver-webhook"
KEPT = timedelta(days=30)
"""How long a webhook, with people's data in it, is kept, and can be delivered."""
BATCH = 2000
"""Webhooks forgotten in one transaction: SQLite's lock is not held for long."""


class EventConflict(BadInput):
    """The source's name for the event stands for another body."""

    status = 409
    title = "Event known with another body"


def relay(tx: Session, source: str, event: str, body: bytes, content_type: str) -> bool:
    """Keep a verified webhook, and a run for each target that wants it; whether it was new.

    Raises EventConflict where its name is known with another body.
    """
    made = runtime.current()
    wanted = [name for name, to in settings_of(made).webhook_targets.items() if to.wants(source)]
    id_, new = _kept(tx, source, event, body, content_type, made.store.clock())
    if new:
        dispatch_many(JOB, [Item({"eventId": id_, "target": name}) for name in wanted], session=tx)
    return new


def _kept(
    tx: Session, source: str, event: str, body: bytes, content_type: str, now: datetime
) -> tuple[str, bool]:
    sha256 = hashlib.sha256(body).hexdigest()
    id_ = f"{source}_{hashlib.sha256(event.encode()).hexdigest()[:32]}"
    row = {
        "id": id_,
        "source": source,
        "event": event,
        "sha256": sha256,
        "body": body,
        "content_type": content_type,
        "received_at": now,
    }
    connection = tx.connection()
    insert = INSERT[connection.dialect.name](received).values(row).on_conflict_do_nothing()
    if connection.execute(insert, execution_options=COUNTED).rowcount == 1:
        return id_, True
    if tx.scalar(select(Received.sha256).where(Received.id == id_)) != sha256:
        raise EventConflict(f"{source}: the event's name is known with another body")
    return id_, False


def forget(tx: Session, before: datetime) -> int:
    """Delete the next BATCH webhooks that came before that time; how many.

    One that comes again is delivered to no target twice: its runs are keyed by its id, and stay.
    """
    old = select(Received.id).where(Received.received_at < before)
    some = old.order_by(Received.received_at).limit(BATCH)
    return tx.connection().execute(delete(received).where(received.c.id.in_(some))).rowcount
