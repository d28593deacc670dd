"""The platform's own tables, beside the layer's and without a foreign key to them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, MetaData, Select, Table
from sqlalchemy.orm import DeclarativeBase, Session

from app.switchyard.db import INSERT, NAMING_CONVENTION, Insert, UTCDateTime

Tx = Session | Connection
AnySelect = Select[*tuple[Any, ...]]
COUNTED = {"preserve_rowcount": True}
"""Execution options under which an INSERT says how many rows it wrote, on Postgres too."""


class Base(DeclarativeBase):
    """The platform's tables. A time in them is UTC."""

    type_annotation_map = {datetime: UTCDateTime}  # noqa: RUF012 - SQLAlchemy's own idiom
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


def connection_of(tx: Tx) -> Connection:
    """The transaction's connection."""
    return tx.connection() if isinstance(tx, Session) else tx


def insert(tx: Tx, model: type[Base]) -> Insert:
    """An INSERT into its table that may say what to do on a conflict."""
    return INSERT[connection_of(tx).dialect.name](cast(Table, model.__table__))
