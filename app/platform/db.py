"""The platform's own tables, beside the layer's and without a foreign key to them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

from app.switchyard.db import NAMING_CONVENTION, UTCDateTime


class Base(DeclarativeBase):
    """The platform's tables. A time in them is UTC."""

    type_annotation_map = {datetime: UTCDateTime}  # noqa: RUF012 - SQLAlchemy's own idiom
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
