"""The base of the platform's tables, which have no foreign keys to the layer's."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, MetaData, Select, Table
from sqlalchemy.orm import DeclarativeBase, Session

from app.switchyard.db import INSERT, NAMING_CONVENTION, Insert, UTCDateTime

Tx = Session | Connection
AnySelect = Select[*tuple[Any, ...]]
COUNTED = {"preserve_rowcount": True}
"""Execution options with which an INSERT reports how many rows it wrote, on Postgres too."""


class Base(DeclarativeBase):
    """The base of the platform's tables. Times in them are in UTC."""

    type_annotation_map = {datetime: UTCDateTime}  # noqa: RUF012 - SQLAlchemy's own idiom
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


def connection_of(tx: Tx) -> Connection:
    """The transaction's connection."""
    return tx.connection() if isinstance(tx, Session) else tx


def insert(tx: Tx, model: type[Base]) -> Insert:
    """An INSERT into the model's table that supports ON CONFLICT."""
    return INSERT[connection_of(tx).dialect.name](cast(Table, model.__table__))
