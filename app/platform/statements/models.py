"""A creator's monthly statements: what was in them, and where their PDFs are. Times UTC."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.db import Base


class Statement(Base):
    """One creator's month, final: what is booked late for it is in the next one."""

    __tablename__ = "statements"

    id: Mapped[str] = mapped_column(String(100), primary_key=True)
    """`<creator>:<YYYY-MM>`."""
    creator_id: Mapped[str] = mapped_column(ForeignKey("creators.id"))
    month: Mapped[date]
    """Its first day."""
    document: Mapped[str] = mapped_column(Text)
    """All figures, canonical JSON: the PDF is made from it alone."""
    pdf_path: Mapped[str] = mapped_column(String(200))
    """In the storage."""
    made_at: Mapped[datetime]

    __table_args__ = (UniqueConstraint("creator_id", "month"),)
