"""The host's database as the layer uses it: the host's engine, or that of its Flask-SQLAlchemy."""

from __future__ import annotations

from contextlib import ExitStack
from threading import RLock
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import StaticPool

from app.switchyard import postgres
from app.switchyard.errors import SettingsError

if TYPE_CHECKING:  # a module of jobs must not load Flask
    from flask import Flask

DRIVERS = ("pysqlite", "psycopg", "psycopg2")
"""The drivers with which the layer was tested."""


def engine_of(app: Flask, engine: Engine | None, db: Any) -> Engine | None:
    """The engine that the host passed, or that of its `db`, whose init_app() must come first.

    Raises SettingsError for one that the layer cannot use.
    """
    if db is not None:
        if engine is not None:
            raise SettingsError("give Switchyard db or engine, not both")
        with app.app_context():
            engine = db.engine
    if engine is None:
        return None
    if not isinstance(engine, Engine) or engine.dialect.is_async:
        raise SettingsError(f"Switchyard needs a SQLAlchemy Engine, not {engine!r}")
    if engine.dialect.driver not in DRIVERS:
        named = f"{engine.dialect.name}+{engine.dialect.driver}"
        raise SettingsError(f"{named} is not supported: give Switchyard SQLite or Postgres")
    if is_in_memory(engine.url) and not isinstance(engine.pool, StaticPool):
        raise SettingsError(
            "SQLite in memory is a separate database for each connection: create the engine with "
            "poolclass=StaticPool, or use a file"
        )
    return engine


def is_in_memory(url: URL) -> bool:
    """Whether it is a SQLite database that is gone with its last connection."""
    if url.get_backend_name() != "sqlite":
        return False
    return (url.database or ":memory:") == ":memory:" or url.query.get("mode") == "memory"


def like(host: Engine) -> Engine:
    """A separate engine that connects to the same database as `host` does.

    It is separate because the host's must not change: the layer needs transactions that take
    SQLite's write lock at once, statements that commit by themselves, and a connection for
    dispatch() while a request holds the last one of the host's pool. It connects through the host's
    pool, since the URL says nothing of connect_args, a creator, or hooks that fetch a password.

    SQLite in memory lives in the host's only connection, which is shared.
    """
    if is_in_memory(host.url):
        guest = _Guest(host)
        engine = create_engine(
            host.url, creator=lambda: guest, poolclass=StaticPool, pool_reset_on_return=None
        )
        event.listen(engine, "begin", lambda _connection: guest.begin())
        return engine
    if host.dialect.name == "sqlite":
        return create_engine(host.url, pool=host.pool.recreate())
    pool = postgres.patient(host.pool.recreate())
    return create_engine(host.url, pool=pool, isolation_level="READ COMMITTED")


class _Guest:
    """The only connection of an in-memory SQLite database, which is the host's.

    It commits or rolls back only what it began: a savepoint where the host is in a transaction,
    whose end the host decides.
    """

    def __init__(self, host: Engine) -> None:
        self._host = host
        self._nested: list[bool] = []
        self._lock = RLock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    @property
    def _raw(self) -> Any:
        pool = self._host.pool  # it is replaced by the host's dispose()
        assert isinstance(pool, StaticPool)
        return pool.connection.dbapi_connection

    def begin(self) -> None:
        """Begin, and keep other threads out until the end."""
        with ExitStack() as stack:
            stack.enter_context(self._lock)
            nested = self._raw.in_transaction
            self._raw.execute("SAVEPOINT switchyard" if nested else "BEGIN IMMEDIATE")
            self._nested.append(nested)
            stack.pop_all()

    def commit(self) -> None:
        """Commit what was last begun."""
        self._end("RELEASE switchyard", "COMMIT")

    def rollback(self) -> None:
        """Roll back what was last begun."""
        self._end("ROLLBACK TO switchyard; RELEASE switchyard", "ROLLBACK")

    def close(self) -> None:
        """Do nothing: closing it is up to the host."""

    def _end(self, nested: str, outermost: str) -> None:
        if not self._nested:
            return
        for statement in (nested if self._nested.pop() else outermost).split(";"):
            self._raw.execute(statement)
        self._lock.release()


def has_begun(connection: Connection) -> bool:
    """Whether SQLite itself is in a transaction, since the driver sends BEGIN late."""
    raw: Any = connection.connection.dbapi_connection
    return bool(raw.in_transaction)
