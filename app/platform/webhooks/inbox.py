"""Webhooks that are relayed: each kept once, by the provider's name for it or by its body."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import Index, LargeBinary, String, Table, Text, delete, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column
from werkzeug.datastructures import Headers

from app.platform.db import Base
from app.platform.ledger.postings import COUNTED, INSERT
from app.switchyard.errors import BadInput
from app.switchyard.runs.retention import BATCH, Page

KEPT = timedelta(days=30)
"""How long a body, with people's data in it, is kept, and a dead letter can be replayed."""
_OWN = ("x-forwarded-", "x-real-", "x-vercel-", "x-request-", "x-amzn-", "x-envoy-", "x-cloud-")
"""What proxies on the way add."""
MAX_HEADERS, MAX_VALUE = 20, 500


class EventConflict(BadInput):
    """The provider's name for the event stands for another body."""

    status = 409
    title = "Event known with another body"


class Received(Base):
    """A webhook that was verified. Times UTC."""

    __tablename__ = "webhook_events"

    id: Mapped[str] = mapped_column(String(100), primary_key=True)
    """What it is relayed as: the source, and a hash of the provider's name for it or of its body.
    """
    source: Mapped[str] = mapped_column(String(40))
    event: Mapped[str | None] = mapped_column(String(200))
    """The provider's name for it."""
    sha256: Mapped[str] = mapped_column(String(64))
    body: Mapped[bytes | None] = mapped_column(LargeBinary)
    """As it came; None once it is no longer kept."""
    headers: Mapped[str] = mapped_column(Text)
    """Those that go on with it, as a JSON object."""
    received_at: Mapped[datetime]

    __table_args__ = (Index("ix_webhook_events_received", "received_at"),)


received = cast(Table, Received.__table__)


def keep(
    tx: Session,
    source: str,
    event: str | None,
    body: bytes,
    headers: dict[str, str],
    now: datetime,
) -> tuple[str, bool]:
    """Write the webhook, unless it is known; its id, and whether it was written.

    Raises EventConflict where its name is known with another body.
    """
    sha256 = hashlib.sha256(body).hexdigest()
    named = sha256 if event is None else hashlib.sha256(event.encode()).hexdigest()
    id_ = f"{source}_{named[:32]}"
    connection = tx.connection()
    row = {
        "id": id_,
        "source": source,
        "event": event,
        "sha256": sha256,
        "body": body,
        "headers": json.dumps(headers),
        "received_at": now,
    }
    insert = INSERT[connection.dialect.name](received).values(row).on_conflict_do_nothing()
    if connection.execute(insert, execution_options=COUNTED).rowcount == 1:
        return id_, True
    known = tx.scalar(select(Received.sha256).where(Received.id == id_))
    if known != sha256:
        raise EventConflict(f"{source}: the event's name is known with another body")
    return id_, False


def passed_on(headers: Headers, signature: str) -> dict[str, str]:
    """The headers that go on with a body: its type, and what the provider says in X- headers."""
    chosen = {"Content-Type": headers.get("Content-Type", "application/octet-stream")}
    for name, value in headers.items():
        low = name.lower()
        if low.startswith("x-") and low != signature.lower() and not low.startswith(_OWN):
            chosen[name] = value
    sound = ((n, v) for n, v in chosen.items() if len(v) <= MAX_VALUE and v.isascii())
    return {n: v for n, v in list(sound)[:MAX_HEADERS] if v.isprintable()}


def forget(tx: Session, now: datetime) -> int:
    """Drop the bodies that were kept long enough; how many. What came stays known."""
    old = (Received.received_at < now - KEPT, Received.body.is_not(None))
    return tx.connection().execute(update(received).where(*old).values(body=None)).rowcount


def prune(tx: Session, before: datetime, after: str) -> Page:
    """Delete the next webhooks that came before that time and whose body is gone: how many, and
    `after`, or None where that was all. One that comes again is delivered to no target twice: its
    runs are keyed by its id, and stay."""
    old = select(Received.id).where(Received.received_at < before, Received.body.is_(None))
    some = old.order_by(Received.received_at).limit(BATCH)
    gone = tx.connection().execute(delete(received).where(received.c.id.in_(some))).rowcount
    return gone, after if gone == BATCH else None
