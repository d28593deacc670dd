"""Mails, one row per run of `send-email`, and receivers that bounced. Times UTC."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import cast

from sqlalchemy import CheckConstraint, Index, String, Table, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.db import Base


class MailStatus(StrEnum):
    """What became of a mail."""

    QUEUED = "queued"
    """Not taken by the mail server yet, as far as is known."""
    SENT = "sent"
    """The mail server took it."""
    REFUSED = "refused"
    """The mail server's definite no."""
    FAILED = "failed"
    """Not sent for another reason; its run failed and can be retried."""
    UNKNOWN = "unknown"
    """Handed over without an answer, or its process died: maybe sent, and never sent again."""
    SUPPRESSED = "suppressed"
    """Not sent: an earlier mail to the address bounced."""


_STATUSES = ", ".join(f"'{status}'" for status in MailStatus)


class Mail(Base):
    """A mail whose run has begun."""

    __tablename__ = "mails"

    run_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    recipient: Mapped[str] = mapped_column(String(254))
    """In lower case, as in mail_addresses."""
    template: Mapped[str] = mapped_column(String(60))
    subject: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(String(20))
    message_id: Mapped[str | None] = mapped_column(String(300))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        CheckConstraint(f"status IN ({_STATUSES})", name="status"),
        CheckConstraint(f"(sent_at IS NOT NULL) = (status = '{MailStatus.SENT}')", name="sent"),
        Index("ix_mails_status", "status", "run_id"),
    )


class MailAddress(Base):
    """A receiver that gets no more mail, since one bounced."""

    __tablename__ = "mail_addresses"

    address: Mapped[str] = mapped_column(String(254), primary_key=True)
    bounced_at: Mapped[datetime]
    reason: Mapped[str] = mapped_column(Text)


mails = cast(Table, Mail.__table__)
addresses = cast(Table, MailAddress.__table__)
