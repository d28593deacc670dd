"""The SQL database, through SQLAlchemy: SQLite (WAL) by default, or Postgres by DATABASE_URL."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakSet

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Executable,
    Index,
    MetaData,
    Select,
    Table,
    create_engine,
    event,
    func,
    literal,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.types import TypeDecorator

from app.switchyard import effects, hosts, postgres
from app.switchyard.clock import Clock, utcnow
from app.switchyard.errors import SettingsError
from app.switchyard.hosts import is_in_memory
from app.switchyard.logs import logger_of
from app.switchyard.text import hide, reason, secrets_of, storable

log = logger_of(__name__)

BUSY_SECONDS = 20
KEPT = 5
"""How many idle connections stay open."""
CONNECT_SECONDS = 5
SILENT_SECONDS = 30
"""How long to wait for a server whose host or network is gone."""

TABLE_PREFIX = "switchyard_"
_DRIVERS = ("pysqlite", "psycopg")
"""The drivers whose connections can execute a statement themselves."""

Insert = sqlite.Insert | postgresql.Insert
INSERT: Mapping[str, Callable[[Table], Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}
"""INSERT with ON CONFLICT, by dialect."""
_Bind = Callable[[Mapping[str, Any]], Any]


class UTCDateTime(TypeDecorator[datetime]):
    """A time in UTC on every database. SQLite itself stores no zone."""

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
"""Fixed names for constraints, so that migrations can refer to them on both databases."""


class Base(DeclarativeBase):
    """The layer's tables. Their names begin with TABLE_PREFIX."""

    type_annotation_map = {datetime: UTCDateTime}  # noqa: RUF012 - SQLAlchemy's own idiom
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


def include_object(
    _object: object, name: str | None, type_: str, _reflected: bool, _compare_to: object
) -> bool:
    """A hook for a host's env.py: tells Alembic that the layer's tables are not the host's."""
    return type_ != "table" or name is None or not name.startswith(TABLE_PREFIX)


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index over the rows that meet a condition, on either database."""
    only = text(where)
    return Index(name, *columns, unique=unique, sqlite_where=only, postgresql_where=only)


def as_bigint(number: int) -> ColumnElement[int]:
    """A number from outside, for comparison with ids. No id may be so large, and Postgres would not
    take it for an INTEGER."""
    return literal(number, BigInteger)


def distinct(column: Any) -> Select[Any]:
    """The column's values, with one look for each into an index that begins with it."""
    least = select(func.min(column).label("value")).cte("least", recursive=True)
    next_one = select(func.min(column)).where(column > least.c.value).scalar_subquery()
    least = least.union_all(select(next_one).where(least.c.value.is_not(None)))
    return select(least.c.value).where(least.c.value.is_not(None))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values are equal text.

    Raises TypeError or ValueError where the value is not JSON (NaN included).
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


class Database:
    """An engine and three ways to use it: `autocommit`, `begin` and `session` (the ORM's begin).

    Given a host's engine, it creates its own for the same database: see hosts.like(). Otherwise
    `pool_size` limits its connections. `prepare` says whether statements are prepared on Postgres,
    unless a pooler is in between.
    """

    def __init__(self, where: str | Engine, *, pool_size: int = 20, prepare: bool = True) -> None:
        self.engine = hosts.like(where) if isinstance(where, Engine) else _open(where, pool_size)
        self.is_shared = isinstance(where, Engine) and is_in_memory(where.url)
        """Whether its only connection is also the host's."""
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        event.listen(self.engine, "before_cursor_execute", _made_storable, retval=True)
        hide(*secrets_of(self.engine.url.render_as_string(hide_password=False)))
        if self.is_sqlite and not self.is_shared:
            event.listen(self.engine, "connect", _sqlite_connect)
            event.listen(self.engine, "begin", _sqlite_begin)
        elif not self.is_sqlite:
            postgres.listen(self.engine, prepare=prepare)
        # SQLite's driver commits by itself as long as nobody sends BEGIN.
        option = {"no_begin": True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._is_direct = self.engine.dialect.driver in _DRIVERS and not self.is_shared
        self._autocommit: Engine = self.engine.execution_options(**option)
        self.clock: Clock = utcnow if self.is_sqlite else postgres.ServerClock(self._autocommit)
        """The time, UTC."""
        _open_databases.add(self)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A write transaction, committed at the end of the block."""
        effects.allow("a database transaction of its own")
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def autocommit(self, wait_seconds: float | None = None) -> Iterator[Connection]:
        """A connection that commits each statement in a single round trip. Also for reads.

        `wait_seconds` is how long it waits for SQLite's write lock, if not the usual time.
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

    def rows(self, read: Executable, values: Mapping[str, Any] | None = None) -> list[Any]:
        """All rows of one statement that reads."""
        with self.autocommit() as connection:
            return list(connection.execute(read, values).all())

    def value(self, read: Executable, values: Mapping[str, Any] | None = None) -> Any:
        """The first column of its first row; None where it has none."""
        with self.autocommit() as connection:
            return connection.scalar(read, values)

    def change(self, statement: UpdateBase, values: Mapping[str, Any]) -> int:
        """Execute one statement that commits by itself. Returns how many rows it changed.

        The statement must be harmless when it is executed twice.
        """
        if self._is_direct:
            effects.allow("a database connection of its own")
            try:
                return self._execute(statement, _row(values))
            except self.engine.dialect.loaded_dbapi.Error as failure:
                # SQLAlchemy knows how to recover: by closing the pool, or planning again.
                log.debug("tried again", extra={"reason": reason(failure)})
        with self.autocommit() as connection:
            return connection.execute(statement, values).rowcount

    def _execute(self, statement: UpdateBase, values: Mapping[str, Any]) -> int:
        """`change` without SQLAlchemy's connection, at half the cost. Raises the driver's errors,
        after which the connection is closed."""
        text, bind = _compiled(self.engine.dialect, statement, tuple(values))
        pooled = self.engine.raw_connection()
        raw: Any = pooled.dbapi_connection
        try:
            if not self.is_sqlite:  # which commits by itself without BEGIN
                raw.autocommit = True
            cursor = raw.execute(text, bind(values))
            changed: int = cursor.rowcount
            cursor.close()
            if not self.is_sqlite:
                raw.autocommit = False
        except BaseException:
            pooled.invalidate()
            raise
        pooled.close()
        return changed

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A write transaction as an ORM session, committed at the end of the block.

        It begins at its first statement. Work done before that holds no lock in the database.
        """
        effects.allow("a database transaction of its own")
        with Session(self.engine, expire_on_commit=False) as session:
            yield session
            session.commit()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A read-only transaction that sees one moment, and for which no writer waits.

        Any attempt to write raises DBAPIError. It is rolled back at the end.
        """
        if not self.is_sqlite:
            options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            connection = self.engine.connect().execution_options(**options)
            with connection, Session(connection) as session:
                yield session
            return
        if self.is_shared:  # the host's connection cannot be made read-only
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
                # The next user of the connection must be able to write.
                connection.exec_driver_sql("PRAGMA query_only = OFF")

    def dispose(self) -> None:
        """Close every connection except the host's."""
        self.engine.dispose()


@lru_cache(maxsize=64)
def _compiled(dialect: Dialect, statement: UpdateBase, names: tuple[str, ...]) -> tuple[str, _Bind]:
    compiled: Any = statement.compile(dialect=dialect, column_keys=list(names))
    known, processors = compiled.params, compiled._bind_processors
    order = compiled.positiontup if compiled.positional else list(known)
    # Values that are part of the statement are bound once.
    plan = [(name, processors.get(name), name in names) for name in order]
    fixed = {n: p(known[n]) if p else known[n] for n, p, is_given in plan if not is_given}

    def bind(values: Mapping[str, Any]) -> Any:
        given = [
            (process(values[name]) if process else values[name]) if is_given else fixed[name]
            for name, process, is_given in plan
        ]
        return given if compiled.positional else dict(zip(order, given, strict=True))

    return str(compiled), bind


def _open(url: str, pool_size: int) -> Engine:
    parsed = make_url(url)
    kept = min(KEPT, pool_size)
    pool: dict[str, Any] = {
        "pool_size": kept,
        "max_overflow": pool_size - kept,
        "pool_timeout": BUSY_SECONDS,
    }
    args: dict[str, Any] = {"check_same_thread": False}
    if is_in_memory(parsed):  # a database for each thread: there is no pool to bound
        return create_engine(url, connect_args=args)
    if parsed.get_backend_name() == "sqlite":
        _make_folder(Path(parsed.database or "").parent)
        return create_engine(url, connect_args=args, **pool)
    args = {
        "connect_timeout": CONNECT_SECONDS,
        "application_name": "switchyard",
        # Without these, a server that vanished would be waited for until TCP gives up.
        "keepalives_idle": SILENT_SECONDS // 2,
        "keepalives_interval": SILENT_SECONDS // 6,
        "keepalives_count": 3,
        "tcp_user_timeout": SILENT_SECONDS * 1000,
    }
    pool |= {"poolclass": postgres.PatientPool, "pool_recycle": 1800}
    try:
        return create_engine(url, connect_args=args, **pool)
    except ModuleNotFoundError as missing:
        raise SettingsError(f"DATABASE_URL: {missing.name} is not installed") from None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise SettingsError(f"DATABASE_URL: cannot create its folder: {failure.strerror}") from None


_open_databases: WeakSet[Database] = WeakSet()


def _forget_connections() -> None:
    # A connection must not be shared with a forked child (gunicorn --preload, RQ's work horse).
    for database in list(_open_databases):
        database.engine.dispose(close=False)


os.register_at_fork(after_in_child=_forget_connections)


def _made_storable(
    _on: Connection, _cursor: object, statement: str, values: Any, _context: object, many: bool
) -> tuple[str, Any]:
    # Done here, so that no column can be forgotten: an error that cannot be written would be
    # neither counted nor shown, and its run would never end.
    return statement, [_row(row) for row in values] if many else _row(values)


def _row(values: Any) -> Any:
    given = values.values() if isinstance(values, Mapping) else values
    text = "".join([value for value in given if isinstance(value, str)])
    if text.isascii() and "\0" not in text:  # nearly always, at the cost of a microsecond
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
    except sqlite3.OperationalError as busy:  # here SQLite does not wait for a writer
        log.info("journal mode left to the next connection: %s", busy)
    for pragma in (
        "synchronous=NORMAL",
        "foreign_keys=ON",
        "recursive_triggers=ON",  # or INSERT OR REPLACE would bypass the guard against deletes
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    # A deferred transaction that reads and then writes fails at once if another wrote in between.
    # Taking the write lock first makes it wait its turn.
    if not connection.get_execution_options().get("no_begin"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
