"""The SQL database: SQLite (WAL) by default, Postgres by DATABASE_URL; SQLAlchemy before both."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from weakref import WeakSet

from sqlalchemy import (
    Connection,
    DateTime,
    Dialect,
    Engine,
    Index,
    MetaData,
    Table,
    create_engine,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.types import TypeDecorator

from app.switchyard import direct, effects, hosts, postgres
from app.switchyard.clock import utcnow
from app.switchyard.errors import SettingsError
from app.switchyard.hosts import is_in_memory
from app.switchyard.text import hide, reason, storable

log = logging.getLogger(__name__)

BUSY_SECONDS = 20
KEPT = 5
"""Connections that stay open while nobody needs them."""
CONNECT_SECONDS = 5
SILENT_SECONDS = 30
"""How long a server whose host or network is gone is waited for."""
CLOCK_SECONDS = 2.0
"""How far this machine's clock may be from the server's before it is put right by that."""

TABLE_PREFIX = "switchyard_"


Insert = sqlite.Insert | postgresql.Insert
INSERT: Mapping[str, Callable[[Table], Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}
"""INSERT with ON CONFLICT, by dialect."""


class UTCDateTime(TypeDecorator[datetime]):
    """A time in UTC on every database; SQLite itself keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive time reached the database; pass UTC")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Fixed names of constraints, so that migrations can name them on both databases."""


class Base(DeclarativeBase):
    """The layer's tables: each one's name begins with TABLE_PREFIX."""

    type_annotation_map = {datetime: UTCDateTime}  # noqa: RUF012 - SQLAlchemy's own idiom
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


def include_object(
    _object: object, name: str | None, type_: str, _reflected: bool, _compare_to: object
) -> bool:
    """Alembic's hook for a host's env.py: the layer's tables are none of the host's to migrate."""
    return type_ != "table" or name is None or not name.startswith(TABLE_PREFIX)


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index of the rows that meet a condition, on either database."""
    only = text(where)
    return Index(name, *columns, unique=unique, sqlite_where=only, postgresql_where=only)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values are equal text.

    Raises TypeError or ValueError where the value is not JSON (NaN included).
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


class Database:
    """One engine, and three ways to use it: `autocommit`, `begin`, `session` (the ORM's begin).

    Given a host's engine, it makes an engine of its own for the same database: see hosts.like().
    Else `pool_size` is how many connections it has at most. `prepare` is whether statements are
    prepared on Postgres, where nothing lies between that minds.
    """

    def __init__(self, where: str | Engine, *, pool_size: int = 20, prepare: bool = True) -> None:
        self._began, self._ahead = 0.0, timedelta(0)
        self.engine = hosts.like(where) if isinstance(where, Engine) else _open(where, pool_size)
        self.is_shared = isinstance(where, Engine) and is_in_memory(where.url)
        """Whether its one connection is the host's as well."""
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        event.listen(self.engine, "before_cursor_execute", _made_storable, retval=True)
        hide(self.engine.url.password)
        if self.is_sqlite and not self.is_shared:
            event.listen(self.engine, "connect", _sqlite_connect)
            event.listen(self.engine, "begin", _sqlite_begin)
        elif not self.is_sqlite:
            postgres.listen(self.engine, prepare=prepare)
        # SQLite's driver is in autocommit by itself once nobody says BEGIN.
        option = {"no_begin": True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._is_direct = self.engine.dialect.driver in direct.DRIVERS and not self.is_shared
        self._autocommit: Engine = self.engine.execution_options(**option)
        _open_databases.add(self)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A write transaction, committed at the end of the block."""
        effects.allow("a database transaction of its own")
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def autocommit(self, wait_seconds: float | None = None) -> Iterator[Connection]:
        """A connection that commits statement by statement: one round trip each; also for reads.

        `wait_seconds`: how long it waits for SQLite's write lock, if not as long as all others.
        """
        effects.allow("a database connection of its own")
        engine = self._autocommit
        with engine.begin() if self.is_shared else engine.connect() as connection:
            if wait_seconds is None or not self.is_sqlite:
                yield connection
                return
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(wait_seconds * 1000)}")
            try:
                yield connection
            finally:
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")

    def change(self, statement: UpdateBase, values: Mapping[str, Any]) -> int:
        """Do one statement that commits by itself: how many rows it changed. It must be harmless
        to do it twice."""
        if self._is_direct:
            effects.allow("a database connection of its own")
            try:
                return direct.execute(self.engine, statement, _row(values))
            except self.engine.dialect.loaded_dbapi.Error as failure:
                # SQLAlchemy knows what becomes of it: a pool to close, a plan to make anew.
                log.debug("tried again", extra={"reason": reason(failure)})
        with self.autocommit() as connection:
            return connection.execute(statement, values).rowcount

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A write transaction as an ORM session, committed at the end of the block.

        It begins at its first statement: work done before that holds no lock in the database.
        """
        effects.allow("a database transaction of its own")
        with Session(self.engine, expire_on_commit=False) as session:
            yield session
            session.commit()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A read-only transaction: it sees one moment, and no writer waits for it.

        Whatever is tried to be written in it raises DBAPIError; at its end it is rolled back.
        """
        if not self.is_sqlite:
            options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            connection = self.engine.connect().execution_options(**options)
            with connection, Session(connection) as session:
                yield session
            return
        if self.is_shared:  # its one connection cannot be made read-only for a while
            with self.engine.connect() as connection, Session(connection) as session:
                yield session
            return
        with self._autocommit.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only = ON")
            try:
                connection.exec_driver_sql("BEGIN")
                with Session(connection) as session:
                    yield session
            finally:
                connection.rollback()
                # Back in the pool it must be able to write.
                connection.exec_driver_sql("PRAGMA query_only = OFF")

    def clock(self) -> datetime:
        """The time, UTC: this machine's, put right where it is plainly not the server's.

        Leases and due times are compared across machines: one whose clock is hours ahead would end
        the leases of all the others, and what it put off would wait until it is that late.
        """
        now = utcnow()
        began = now.timestamp() - time.monotonic()
        if not self.is_sqlite and abs(began - self._began) > CLOCK_SECONDS:
            self._compare_clocks(began)
        return now - self._ahead

    def _compare_clocks(self, began: float) -> None:
        try:
            with self._autocommit.connect() as connection:
                there = connection.execute(select(func.clock_timestamp())).scalar_one()
        except SQLAlchemyError:
            return  # with the next look: without the database the time is of little use
        ahead = utcnow() - there
        off = abs(ahead.total_seconds()) > CLOCK_SECONDS
        if off:
            log.error("this clock is wrong: going by the database's", extra={"ahead": str(ahead)})
        self._began, self._ahead = began, ahead if off else timedelta(0)

    def dispose(self) -> None:
        """Close every connection that is not the host's."""
        self.engine.dispose()


def _open(url: str, pool_size: int) -> Engine:
    parsed = make_url(url)
    kept = min(KEPT, pool_size)
    pool = {"pool_size": kept, "max_overflow": pool_size - kept, "pool_timeout": BUSY_SECONDS}
    args: dict[str, Any] = {"check_same_thread": False}
    if is_in_memory(parsed):  # a database for each thread: there is no pool to bound
        return create_engine(url, connect_args=args)
    if parsed.get_backend_name() == "sqlite":
        _make_folder(Path(parsed.database or "").parent)
        return create_engine(url, connect_args=args, **pool)
    args = {
        "connect_timeout": CONNECT_SECONDS,
        "application_name": "switchyard",
        # A server that is gone without a word must not be waited for until TCP gives up.
        "keepalives_idle": SILENT_SECONDS // 2,
        "keepalives_interval": SILENT_SECONDS // 6,
        "keepalives_count": 3,
        "tcp_user_timeout": SILENT_SECONDS * 1000,
    }
    return create_engine(
        url, connect_args=args, poolclass=postgres.PatientPool, pool_recycle=1800, **pool
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise SettingsError(f"DATABASE_URL: cannot make its folder: {failure.strerror}") from None


_open_databases: WeakSet[Database] = WeakSet()


def _forget_connections() -> None:
    # A connection must not be shared with a forked child (gunicorn --preload, RQ's work horse).
    for database in list(_open_databases):
        database.engine.dispose(close=False)


os.register_at_fork(after_in_child=_forget_connections)


def _made_storable(
    _on: Connection, _cursor: object, statement: str, values: Any, _context: object, many: bool
) -> tuple[str, Any]:
    # Here, so that no later column can be without it: an error that cannot be written would be
    # neither counted nor seen, and its run never end.
    return statement, [_row(row) for row in values] if many else _row(values)


def _row(values: Any) -> Any:
    given = values.values() if isinstance(values, Mapping) else values
    text = "".join([value for value in given if isinstance(value, str)])
    if text.isascii() and "\0" not in text:  # nearly always, and it costs a microsecond
        return values
    if isinstance(values, Mapping):
        return {name: _value(value) for name, value in values.items()}
    return tuple(map(_value, values))


def _value(value: Any) -> Any:
    return storable(value) if isinstance(value, str) else value


def _sqlite_connect(raw: Any, _record: ConnectionPoolEntry) -> None:
    raw.isolation_level = None  # the driver's own implicit BEGIN comes too late to be IMMEDIATE
    cursor = raw.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
    try:
        cursor.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as busy:  # for once SQLite does not wait for a writer
        log.info("left as it is until the next connection: %s", busy)
    for pragma in (
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "recursive_triggers=ON",  # else INSERT OR REPLACE gets past the guard against deleting
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    # A deferred transaction that reads and then writes fails at once when another wrote in between;
    # taking the write lock first makes it wait its turn instead.
    if not connection.get_execution_options().get("no_begin"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
