"""The statements that were sent to a database, and how it reads for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event

from app.switchyard.db import Database

Sent = list[tuple[str, Any]]
"""Each statement with what was bound to it, at first where it was sent with many."""


@contextmanager
def sent(target: Any) -> Iterator[Sent]:
    """What an engine or a connection is sent in this block."""
    found: Sent = []

    def note(_c: Any, _k: Any, statement: str, bound: Any, _x: Any, many: bool) -> None:
        found.append((statement, bound[0] if many else bound))

    event.listen(target, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(target, "before_cursor_execute", note)


def plan(connection: Connection, statement: str, bound: Any) -> list[str]:
    """The lines of a statement's plan."""
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    return [str(row) for row in connection.exec_driver_sql(f"{explain} {statement}", bound)]


def plan_of(db: Database, run: Callable[[Connection], Any]) -> list[str]:
    """The plans of all statements that `run` executes."""
    with db.engine.connect() as connection:
        with sent(connection) as statements:
            run(connection)
        return [line for each in statements for line in plan(connection, *each)]


def analyze(db: Database) -> None:
    """Have the database count its rows, as it does by itself in time."""
    with db.autocommit() as connection:
        connection.exec_driver_sql("ANALYZE" if db.is_sqlite else "VACUUM ANALYZE")


def plans(db: Database, statements: Sent, *off: str) -> list[str]:
    """How the database would read for each of them if its tables were large; `off` are Postgres's
    other ways that are not to be taken."""
    with db.engine.connect() as connection:
        for way in () if db.is_sqlite else ("seqscan", *off):
            connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
        return ["\n".join(plan(connection, *each)) for each in statements]


def plan_if_large(db: Database, statement: Any, **bound: Any) -> str:
    """How it would read for this one."""
    with db.autocommit() as connection, sent(connection) as statements:
        connection.execute(statement.params(**bound))
    return plans(db, statements)[-1]
