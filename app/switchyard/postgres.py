"""Connections to Postgres, whatever lies between: a pooler, a server that closes them or has none
left, a table that is altered while they are open."""

from __future__ import annotations

import re
import select
import time
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

SURE_SECONDS = 30.0
"""How long an idle connection is taken to be alive that shows no sign of its end."""
WAIT_SECONDS = 20.0
"""How long a connection is waited for that others have."""
_LOOK_SECONDS = 0.05
_IDLE = "switchyard_idle_since"
_FULL = re.compile(r"too many (connections|clients)|connection slots|no more connections")
"""What a server or a pooler says that has no connection left; libpq keeps no code of it."""
_STALE = ("0A000", "26000", "42P05")
"""SQLSTATE of a prepared statement whose table has changed, that is gone, or is another's."""


class PatientPool(QueuePool):
    """A pool that waits where the server has no connection left, as where it has none itself."""

    def connect(self) -> PoolProxiedConnection:
        """See SQLAlchemy."""
        until = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                return super().connect()
            except Exception as failure:
                if not _FULL.search(str(failure)) or time.monotonic() > until:
                    raise
            time.sleep(_LOOK_SECONDS)  # one of our own may come back before the server has one


def listen(engine: Engine, *, prepare: bool) -> None:
    """Have the engine's connections hold whatever happens to them."""
    dialect = engine.dialect

    def check(raw: Any, record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
        # A round trip for each use would be a tenth of dispatch(); a closed socket shows for free.
        idle = time.monotonic() - record.info.get(_IDLE, time.monotonic())
        if idle < SURE_SECONDS and not _has_news(raw, dialect.loaded_dbapi.Error):
            return
        try:
            dialect.do_ping(raw)
        except dialect.loaded_dbapi.Error:
            raise InvalidatePoolError from None  # its like is gone too: a new one is opened

    def rest(_raw: Any, record: ConnectionPoolEntry) -> None:
        record.info[_IDLE] = time.monotonic()

    event.listen(engine, "checkout", check)
    event.listen(engine, "checkin", rest)
    if dialect.driver == "psycopg":
        event.listen(engine, "connect", _prepare_if_direct if prepare else _prepare_nothing)
        event.listen(engine, "do_execute", _execute)


def _has_news(raw: Any, error: type[Exception]) -> bool:
    poll = select.poll()
    try:
        poll.register(raw.fileno(), select.POLLIN)
    except error:
        return True
    return bool(poll.poll(0))


def _prepare_nothing(raw: Any, _record: ConnectionPoolEntry) -> None:
    raw.prepare_threshold = None


def _prepare_if_direct(raw: Any, record: ConnectionPoolEntry) -> None:
    """Prepare nothing through a pooler: the next transaction may be on another connection, where
    the same name is somebody else's statement. A pooler has keys of its own to cancel by."""
    with raw.cursor() as cursor:
        server = cursor.execute("SELECT pg_backend_pid()").fetchone()[0]
    raw.rollback()
    if server != raw.info.backend_pid:
        _prepare_nothing(raw, record)


def _execute(cursor: Any, statement: str, parameters: Any, _context: object) -> bool:
    """Only what commits by itself is prepared: of that, what could not be done is done again."""
    raw = cursor.connection
    if isinstance(getattr(cursor, "name", None), str):  # the server's own, which is never prepared
        return False
    try:
        cursor.execute(statement, parameters, prepare=None if raw.autocommit else False)
    except Exception as failure:
        if not raw.autocommit or getattr(failure, "sqlstate", None) not in _STALE:
            raise
        raw.prepare_threshold = None
        cursor.execute(statement, parameters)
    return True
