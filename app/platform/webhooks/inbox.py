"""Webhooks that are relayed: each kept once, by its source's name for it, with its deliveries."""

from __future__ import annotations

import hashlib

from flask import request
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.platform.config import settings_of
from app.platform.ledger.postings import COUNTED
from app.platform.webhooks.models import Received, received
from app.switchyard import runtime
from app.switchyard.db import INSERT
from app.switchyard.dispatch import Item, dispatch_many
from app.switchyard.errors import BadInput

JOB = "deliver-webhook"
MAX_BYTES = 1024 * 1024
"""Events are a few kilobytes."""


class EventConflict(BadInput):
    """The source's name for the event stands for another body."""

    status = 409
    title = "Event known with another body"


def posted() -> bytes:
    """The request's body. Raises RequestEntityTooLarge above MAX_BYTES."""
    request.max_content_length = MAX_BYTES
    return request.get_data(cache=False)


def relay(tx: Session, source: str, event: str, body: bytes) -> bool:
    """Keep the request's webhook, once verified, and a run for each target that wants it; whether
    it was new.

    Raises EventConflict where its name is known with another body.
    """
    app_runtime = runtime.current()
    sha256 = hashlib.sha256(body).hexdigest()
    id_ = f"{source}_{hashlib.sha256(event.encode()).hexdigest()[:32]}"
    said = request.headers.get("Content-Type", "")
    content_type = said if said.isascii() and 0 < len(said) <= 200 else "application/octet-stream"
    row = {
        "id": id_,
        "source": source,
        "event": event,
        "sha256": sha256,
        "body": body,
        "content_type": content_type,
        "received_at": app_runtime.store.clock(),
    }
    connection = tx.connection()
    insert = INSERT[connection.dialect.name](received).values(row).on_conflict_do_nothing()
    if connection.execute(insert, execution_options=COUNTED).rowcount == 0:
        if tx.scalar(select(Received.sha256).where(Received.id == id_)) != sha256:
            raise EventConflict(f"{source}: the event's name is known with another body")
        return False
    targets = settings_of(app_runtime).webhook_targets.items()
    items = [Item({"eventId": id_, "target": name}) for name, to in targets if to.wants(source)]
    dispatch_many(JOB, items, session=tx)
    return True
