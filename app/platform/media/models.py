"""Media as pages know them, and what was made of which bytes. Times UTC."""

from __future__ import annotations

from datetime import datetime
from typing import cast

from sqlalchemy import String, Table, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.platform.db import Base

MAX_ID_LENGTH = 50


class Media(Base):
    """One image or video, whole: every file it names is there. Processed anew, it is replaced."""

    __tablename__ = "media"

    id: Mapped[str] = mapped_column(String(MAX_ID_LENGTH), primary_key=True)
    source: Mapped[str] = mapped_column(String(200))
    """Where the upload is in the storage."""
    document: Mapped[str] = mapped_column(Text)
    """The result of the run, as JSON."""
    run_id: Mapped[str] = mapped_column(String(32))
    """The newest run that has ended: an older one that ends later changes nothing."""
    made_at: Mapped[datetime]


class MediaMade(Base):
    """What was made of some bytes by one recipe: the same bytes again are not worked on twice."""

    __tablename__ = "media_made"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Of the upload, in hex."""
    recipe: Mapped[str] = mapped_column(String(40), primary_key=True)
    document: Mapped[str] = mapped_column(Text)
    """JSON; the `path` in it, if any, is a file in the storage."""
    made_at: Mapped[datetime]


media = cast(Table, Media.__table__)
media_made = cast(Table, MediaMade.__table__)
