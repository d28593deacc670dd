"""Every table that a test can need: the layer's, the platform's, and the tests' own."""

from __future__ import annotations

from sqlalchemy import Engine, Table
from sqlalchemy.orm import DeclarativeBase

from app.platform import tables as platform
from app.switchyard import schema


class Base(DeclarativeBase):
    """The tests' own tables."""


_METADATA = (schema.metadata, platform.metadata, Base.metadata)


def create_all(engine: Engine) -> None:
    """Make them as the models have them."""
    for metadata in _METADATA:
        metadata.create_all(engine)


def every_table() -> dict[str, Table]:
    """By name."""
    return {name: table for metadata in _METADATA for name, table in metadata.tables.items()}
