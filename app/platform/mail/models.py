"""Mails of which nobody knows whether they were sent. Times UTC.

All else about a mail is its run of `send-email`.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.db import Base


class UnknownMail(Base):
    """Handed over without an answer, or its process died: maybe sent, and never sent again."""

    __tablename__ = "mails_unknown"

    run_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    recipient: Mapped[str] = mapped_column(String(254))
    at: Mapped[datetime]
    reason: Mapped[str] = mapped_column(Text)
