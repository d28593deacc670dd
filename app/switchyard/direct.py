"""A statement past SQLAlchemy's connection, at half its cost: for what every run does once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import Dialect, Engine
from sqlalchemy.sql.dml import UpdateBase

DRIVERS = ("pysqlite", "psycopg")
_Bind = Callable[[Mapping[str, Any]], Any]


def execute(engine: Engine, statement: UpdateBase, values: Mapping[str, Any]) -> int:
    """Do one statement that commits by itself: how many rows it changed.

    Raises what the driver raises; then its connection is closed.
    """
    text, bind = _compiled(engine.dialect, statement, tuple(values))
    pooled = engine.raw_connection()
    raw: Any = pooled.dbapi_connection
    on_sqlite = engine.dialect.name == "sqlite"  # which commits by itself, as nobody says BEGIN
    try:
        if not on_sqlite:
            raw.autocommit = True
        cursor = raw.execute(text, bind(values))
        changed: int = cursor.rowcount
        cursor.close()
        if not on_sqlite:
            raw.autocommit = False
    except BaseException:
        pooled.invalidate()
        raise
    pooled.close()
    return changed


@lru_cache(maxsize=64)
def _compiled(dialect: Dialect, statement: UpdateBase, names: tuple[str, ...]) -> tuple[str, _Bind]:
    compiled: Any = statement.compile(dialect=dialect, column_keys=list(names))
    processors = compiled._bind_processors
    known = compiled.params

    def value(name: str, values: Mapping[str, Any]) -> Any:
        given = values[name] if name in values else known[name]
        return processors[name](given) if name in processors else given

    if compiled.positional:
        return str(compiled), lambda values: [value(name, values) for name in compiled.positiontup]
    return str(compiled), lambda values: {name: value(name, values) for name in known}
