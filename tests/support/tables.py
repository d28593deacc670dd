"""Every table that a test can need: the layer's, the platform's, and the tests' own."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Engine, Table, inspect
from sqlalchemy.orm import DeclarativeBase

from app.platform import tables as platform
from app.switchyard import schema
from app.switchyard.db import Database


class Base(DeclarativeBase):
    """The tests' own tables."""


_METADATA = (schema.metadata, platform.metadata, Base.metadata)


def create_all(engine: Engine) -> None:
    """Make them as the models have them, guarded as the migrations do it.

    A SQLite file that is not there yet is a copy of one with all of them: it costs a tenth.
    """
    path = engine.url.database
    if engine.dialect.name == "sqlite" and path != ":memory:" and path and not Path(path).exists():
        Path(path).write_bytes(_with_tables(sum(len(each.tables) for each in _METADATA)))
        return
    new = not inspect(engine).has_table("entries")
    for metadata in _METADATA:
        metadata.create_all(engine)
    if new:
        guard(engine)


@cache
def _with_tables(_count: int) -> bytes:
    """A database with so many as there are by now."""
    with TemporaryDirectory() as folder:
        (path := Path(folder) / "made.db").touch()
        db = Database(f"sqlite:///{path}")
        create_all(db.engine)
        db.dispose()
        return path.read_bytes()


def guard(engine: Engine) -> None:
    """Make the triggers of the platform's tables."""
    for file in sorted(platform.BRANCH.versions.glob(f"*_guards.{engine.dialect.name}.sql")):
        with engine.begin() as connection:
            for statement in file.read_text().split("\n\n"):
                connection.exec_driver_sql(statement)


def every_table() -> dict[str, Table]:
    """By name."""
    return {name: table for metadata in _METADATA for name, table in metadata.tables.items()}
