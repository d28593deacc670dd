"""Connections to Postgres that survive a pooler, a server that closes them or has none left, and
a table that is altered while they are open; and its server's clock."""

from __future__ import annotations

import re
import select
import time
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Pool, event, func, sql
from sqlalchemy.exc import DBAPIError, InvalidatePoolError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from app.switchyard.clock import utcnow
from app.switchyard.logs import logger_of

log = logger_of(__name__)

SURE_SECONDS = 30.0
"""How long an idle connection is trusted to be alive without a check."""
WAIT_SECONDS = 20.0
"""How long to wait for a connection that others are using."""
CLOCK_SECONDS = 2.0
"""How far this machine's clock may be from the server's before the server's is used."""
_LOOK_SECONDS = 0.05
_IDLE = "switchyard_idle_since"
_FULL = re.compile(r"too many (connections|clients)|connection slots|no more connections")
"""The messages of a server or pooler without free connections, for which libpq has no code."""
_STALE = ("0A000", "26000", "42P05")
"""The SQLSTATEs of a prepared statement that is gone or another's, or whose table has changed."""
_DISK_FULL = "53100"


class Patient(Pool):
    """A pool that also waits where the server has no connection left, as it does for its own."""

    def connect(self) -> PoolProxiedConnection:
        """See SQLAlchemy."""
        until = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                return super().connect()
            except Exception as failure:
                if not _FULL.search(str(failure)) or time.monotonic() > until:
                    raise
            time.sleep(_LOOK_SECONDS)  # meanwhile one of our own may become free


class PatientPool(Patient, QueuePool):
    """The pool of an engine of our own."""


def patient(pool: Pool) -> Pool:
    """The pool, whatever kind it is, as one that waits."""
    kind = type(pool)
    pool.__class__ = type(kind.__name__, (Patient, kind), {})
    return pool


def listen(engine: Engine, *, prepare: bool) -> None:
    """Make the engine's connections recover from whatever happens to them."""
    dialect = engine.dialect

    def check(raw: Any, record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
        # A round trip per use would cost a tenth of dispatch(). A closed socket shows for free.
        idle = time.monotonic() - record.info.get(_IDLE, time.monotonic())
        if idle < SURE_SECONDS and not _has_news(raw, dialect.loaded_dbapi.Error):
            return
        try:
            dialect.do_ping(raw)
        except dialect.loaded_dbapi.Error:
            raise InvalidatePoolError from None  # the others are gone too, so new ones are opened

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
    """Prepare nothing through a pooler: the next transaction may use another connection, where the
    same name is somebody else's statement. A pooler is known by its own cancel keys."""
    with raw.cursor() as cursor:
        server = cursor.execute("SELECT pg_backend_pid()").fetchone()[0]
    raw.rollback()
    if server != raw.info.backend_pid:
        _prepare_nothing(raw, record)


def _execute(cursor: Any, statement: str, parameters: Any, _context: object) -> bool:
    """Prepare only statements that commit by themselves, since these are retried after an error."""
    raw = cursor.connection
    if isinstance(getattr(cursor, "name", None), str):  # server-side: never prepared
        return False
    try:
        cursor.execute(statement, parameters, prepare=None if raw.autocommit else False)
    except Exception as failure:
        if not raw.autocommit or getattr(failure, "sqlstate", None) not in _STALE:
            raise
        raw.prepare_threshold = None
        cursor.execute(statement, parameters)
    return True


class ServerClock:
    """The time, UTC: this machine's, corrected where it is plainly wrong by the server's.

    Leases and due times are compared across machines. One whose clock is hours ahead would end
    everyone else's leases, and the runs it put off would wait for hours.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._began, self._ahead = 0.0, timedelta(0)

    def __call__(self) -> datetime:
        now = utcnow()
        began = now.timestamp() - time.monotonic()
        if abs(began - self._began) > CLOCK_SECONDS:
            self._compare(began)
        return now - self._ahead

    def _compare(self, began: float) -> None:
        try:
            with self._engine.connect() as connection:
                there = connection.execute(sql.select(func.clock_timestamp())).scalar_one()
        except SQLAlchemyError:
            return  # left to the next look: without the database nobody needs the time
        ahead = utcnow() - there
        off = abs(ahead.total_seconds()) > CLOCK_SECONDS
        if off:
            log.error("this clock is wrong: using the database's", extra={"ahead": str(ahead)})
        self._began, self._ahead = began, ahead if off else timedelta(0)


def require_room(connection: Connection) -> None:
    """Raises DBAPIError where the server's disk is full: there a row may be changed in its page for
    a long time, while no table can grow. In a transaction of its own."""
    try:
        # More than fits into so little memory: the server writes a file of 42 kB for a moment.
        connection.exec_driver_sql("SET LOCAL work_mem = '64kB'")
        connection.exec_driver_sql("SELECT count(*) FROM generate_series(1, 3000)")
    except DBAPIError as failure:
        # psycopg's name for it, and psycopg2's.
        state = getattr(failure.orig, "sqlstate", None) or getattr(failure.orig, "pgcode", None)
        if state == _DISK_FULL:
            raise  # any other refusal, such as by temp_file_limit, says nothing of the disk
