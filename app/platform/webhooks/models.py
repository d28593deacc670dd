"""Webhooks that were verified and are relayed. Times UTC."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.db import Base


class Received(Base):
    """A webhook, as long as it may be sent (again)."""

    __tablename__ = "webhook_events"

    id: Mapped[str] = mapped_column(String(100), primary_key=True)
    """What it is relayed as: the source, and a hash of the source's name for it."""
    source: Mapped[str] = mapped_column(String(40))
    event: Mapped[str] = mapped_column(String(200))
    """The source's name for it."""
    sha256: Mapped[str] = mapped_column(String(64))
    body: Mapped[bytes] = mapped_column(LargeBinary)
    """As it came."""
    content_type: Mapped[str] = mapped_column(String(200))
    received_at: Mapped[datetime]

    __table_args__ = (Index("ix_webhook_events_received", "received_at"),)
