"""The media that pages can show."""

from __future__ import annotations

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.db import Base

MAX_ID_LENGTH = 50


class Media(Base):
    """An image or video whose files are all stored. A newer run replaces it."""

    __tablename__ = "media"

    id: Mapped[str] = mapped_column(String(MAX_ID_LENGTH), primary_key=True)
    document: Mapped[str] = mapped_column(Text)
    """The result of the run, as JSON."""
    run_id: Mapped[str] = mapped_column(String(32))
    """The newest run that has ended. An older one that ends later changes nothing."""
