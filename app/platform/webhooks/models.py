"""Webhooks that were verified and are relayed. Times are in UTC."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.db import Base


class Received(Base):
    """A webhook, stored for as long as it may be sent or resent."""

    __tablename__ = "webhook_events"

    id: Mapped[str] = mapped_column(String(100), primary_key=True)
    """The id under which it is relayed: the source, and a hash of the source's name for it."""
    source: Mapped[str] = mapped_column(String(40))
    event: Mapped[str] = mapped_column(String(200))
    """The source's name for it."""
    sha256: Mapped[str] = mapped_column(String(64))
    body: Mapped[bytes] = mapped_column(LargeBinary)
    """The body as received."""
    content_type: Mapped[str] = mapped_column(String(200))
    received_at: Mapped[datetime]

    __table_args__ = (Index("ix_webhook_events_received", "received_at"),)
