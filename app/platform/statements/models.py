"""A creator's monthly statements: what was in them, and where their files are. Times UTC."""

from __future__ import annotations

from datetime import date, datetime
from typing import cast

from sqlalchemy import BigInteger, ForeignKey, Index, String, Table, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.switchyard.db import Base


class Statement(Base):
    """One creator's month. Made again with other figures it is the next version, in files of its
    own: those of the version before stay as they were handed out."""

    __tablename__ = "statements"

    id: Mapped[str] = mapped_column(String(100), primary_key=True)
    """`<creator>:<YYYY-MM>`."""
    creator_id: Mapped[str] = mapped_column(ForeignKey("creators.id"))
    month: Mapped[date]
    """Its first day."""
    document: Mapped[str] = mapped_column(Text)
    """All figures, canonical JSON: CSV and PDF are made from it alone."""
    csv_path: Mapped[str] = mapped_column(String(200))
    """In the storage."""
    pdf_path: Mapped[str] = mapped_column(String(200))
    made_at: Mapped[datetime]
    version: Mapped[int] = mapped_column(default=1, server_default="1")

    __table_args__ = (
        UniqueConstraint("creator_id", "month"),
        Index("ix_statements_month", "month"),
    )


class LateStatement(Base):
    """A creator whose statements, from `month` on, are to be looked at again: a day of theirs
    changed after its month was rolled up. Written with the rollup of that day."""

    __tablename__ = "late_statements"

    creator_id: Mapped[str] = mapped_column(ForeignKey("creators.id"), primary_key=True)
    month: Mapped[date]
    marks: Mapped[int] = mapped_column(BigInteger)
    """How often; who has dealt with fewer has not dealt with all."""


statements = cast(Table, Statement.__table__)
late_statements = cast(Table, LateStatement.__table__)
