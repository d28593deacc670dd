"""Media as pages know them. Times UTC."""

from __future__ import annotations

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.db import Base

MAX_ID_LENGTH = 50


class Media(Base):
    """One image or video, whole: every file it names is there. Processed anew, it is replaced."""

    __tablename__ = "media"

    id: Mapped[str] = mapped_column(String(MAX_ID_LENGTH), primary_key=True)
    document: Mapped[str] = mapped_column(Text)
    """The result of the run, as JSON."""
    run_id: Mapped[str] = mapped_column(String(32))
    """The newest run that has ended: an older one that ends later changes nothing."""
