"""Creators' monthly statements: their contents and their PDFs' paths. Times are in UTC."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.db import Base


class Statement(Base):
    """A creator's month. It is final: late entries are in the next statement."""

    __tablename__ = "statements"

    id: Mapped[str] = mapped_column(String(100), primary_key=True)
    """`<creator>:<YYYY-MM>`."""
    creator_id: Mapped[str] = mapped_column(ForeignKey("creators.id"))
    month: Mapped[date]
    """The month's first day."""
    document: Mapped[str] = mapped_column(Text)
    """All figures, as canonical JSON. The PDF is made from it alone."""
    pdf_path: Mapped[str] = mapped_column(String(200))
    """The path in the storage."""
    made_at: Mapped[datetime]

    __table_args__ = (UniqueConstraint("creator_id", "month"),)
