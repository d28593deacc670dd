"""Every table that a test can need: the layer's, the platform's, and the tests' own."""

from __future__ import annotations

from sqlalchemy import Engine, Table, inspect
from sqlalchemy.orm import DeclarativeBase

from app.platform import tables as platform
from app.switchyard import schema


class Base(DeclarativeBase):
    """The tests' own tables."""


_METADATA = (schema.metadata, platform.metadata, Base.metadata)


def create_all(engine: Engine) -> None:
    """Make them as the models have them, guarded as the migrations do it."""
    new = not inspect(engine).has_table("entries")
    for metadata in _METADATA:
        metadata.create_all(engine)
    if new:
        guard(engine)


def guard(engine: Engine) -> None:
    """Make the triggers of the platform's tables."""
    for file in sorted(platform.BRANCH.versions.glob(f"*_guards.{engine.dialect.name}.sql")):
        with engine.begin() as connection:
            for statement in file.read_text().split("\n\n"):
                connection.exec_driver_sql(statement)


def every_table() -> dict[str, Table]:
    """By name."""
    return {name: table for metadata in _METADATA for name, table in metadata.tables.items()}
